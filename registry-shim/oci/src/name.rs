//! Repository names, tags and references, valid by construction.

use crate::digest::Digest;

/// A repository name of the distribution specification, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct RepoName(Box<str>);
/// A tag of the distribution specification.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Tag(Box<str>);
/// What a manifest is asked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By name.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}
/// A text that breaks the grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid {1}")]
pub struct InvalidName(pub String, pub &'static str);

impl RepoName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl std::str::FromStr for RepoName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let _ = Self(text.into());
        todo!()
    }
}
impl std::str::FromStr for Tag {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let _ = Self(text.into());
        todo!()
    }
}
impl std::str::FromStr for Reference {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let _ = text;
        todo!()
    }
}
impl std::fmt::Display for RepoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(t) => t.fmt(f),
            Self::Digest(d) => d.fmt(f),
        }
    }
}
