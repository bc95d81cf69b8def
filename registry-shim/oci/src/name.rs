//! Repository names, tags and references, valid by construction.
//!
//! The grammar is the distribution specification's. A name of that grammar is safe as a path
//! below a directory: no component is empty, begins with a dot, or holds anything but
//! `[a-z0-9._-]`. Upstream hosts are written as a first component (`ghcr.io/org/app`), which
//! the grammar allows; a host with a port is not, for want of a colon.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::shortened;

/// Bytes of a repository name at most. Clients refuse longer ones as well.
pub const MAX_NAME: usize = 255;
/// Bytes of a tag at most.
pub const MAX_TAG: usize = 128;
/// Text of a refused name that is repeated in an error; the rest is cut.
const SHOWN: usize = 160;

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

impl FromStr for RepoName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= MAX_NAME && text.split('/').all(is_component) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(shortened(text, SHOWN), "repository name"))
        }
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(shortened(text, SHOWN), "tag"))
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidName;

    /// A tag has no colon and a digest has one, so nothing can be both.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') {
            let digest = text.parse();
            digest
                .map(Self::Digest)
                .map_err(|_| InvalidName(shortened(text, SHOWN), "digest"))
        } else {
            text.parse().map(Self::Tag)
        }
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(t) => t.fmt(f),
            Self::Digest(d) => d.fmt(f),
        }
    }
}

impl<'de> serde::Deserialize<'de> for RepoName {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> serde::Deserialize<'de> for Tag {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Runs of `[a-z0-9]`, joined by one of `.`, `_`, `__`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let mut rest = text.as_bytes();
    loop {
        let run = rest.iter().take_while(|b| is_alphanumeric(**b)).count();
        if run == 0 {
            return false;
        }
        rest = &rest[run..];
        if rest.is_empty() {
            return true;
        }
        let joint = rest.iter().take_while(|b| !is_alphanumeric(**b)).count();
        match &rest[..joint] {
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = &rest[joint..];
    }
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for text in [
            "a",
            "0",
            "library/hello",
            "ghcr.io/org/app",
            "registry-1.docker.io/library/x",
            "127.0.0.1/app",
            "a__b",
            "a_b.c-d---e",
            "team/blobs/uploads",
            "a/".repeat(127).trim_end_matches('/'),
            &"a".repeat(255),
        ] {
            assert!(text.parse::<RepoName>().is_ok(), "{text}");
        }
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "team/App",
            "localhost:16000/x",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            ".a",
            "_catalog",
            "a/../b",
            "a b",
            "a%2fb",
            "é",
            "a\0",
            &"a".repeat(256),
        ] {
            assert!(text.parse::<RepoName>().is_err(), "{text}");
        }
    }

    #[test]
    fn tags() {
        for text in [
            "v1",
            "latest",
            "_x",
            "1.2.3-rc_1",
            "A",
            "sha256-abc",
            &"t".repeat(128),
        ] {
            assert!(text.parse::<Tag>().is_ok(), "{text}");
        }
        for text in [
            "",
            ".x",
            "-x",
            "a/b",
            "a:b",
            "a b",
            "é",
            "a%20",
            &"t".repeat(129),
        ] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
    }

    #[test]
    fn references() {
        let digest = Digest::sha256_of(b"x");
        assert_eq!(
            digest.to_string().parse::<Reference>().unwrap(),
            Reference::Digest(digest)
        );
        assert_eq!(
            "v1".parse::<Reference>().unwrap(),
            Reference::Tag("v1".parse().unwrap())
        );
        assert_eq!("sha256:short".parse::<Reference>().unwrap_err().1, "digest");
        assert_eq!(".x".parse::<Reference>().unwrap_err().1, "tag");
    }

    #[test]
    fn json_is_checked_too() {
        assert!(serde_json::from_str::<RepoName>("\"a/b\"").is_ok());
        assert!(serde_json::from_str::<RepoName>("\"../b\"").is_err());
        assert!(serde_json::from_str::<Tag>("\"v1\"").is_ok());
        assert!(serde_json::from_str::<Tag>("\"\"").is_err());
    }

    proptest! {
        /// The specification's regular expression, as a generator.
        #[test]
        fn the_grammar_is_taken(
            text in "[a-z0-9]{1,9}((\\.|_|__|-{1,3})[a-z0-9]{1,9}){0,3}\
                     (/[a-z0-9]{1,9}((\\.|_|__|-{1,3})[a-z0-9]{1,9}){0,2}){0,3}"
        ) {
            let parsed = text.parse::<RepoName>();
            prop_assert_eq!(parsed.is_ok(), text.len() <= MAX_NAME);
        }

        /// What is taken is safe to use as a relative path.
        #[test]
        fn what_is_taken_stays_below_its_directory(text in "[a-z./_-]{1,12}|\\PC{0,20}") {
            if let Ok(name) = text.parse::<RepoName>() {
                let path = std::path::Path::new(name.as_str());
                let normal = |c| matches!(c, std::path::Component::Normal(_));
                prop_assert!(path.components().all(normal));
            }
        }
    }
}
