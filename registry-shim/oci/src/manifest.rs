//! Manifests: OCI image manifests and indexes, Docker schema 2 manifests and lists.

use crate::digest::Digest;
use crate::error::RegistryError;

/// Larger manifests are refused with 413.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

/// A reference to content, as manifests carry it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// Where foreign layers may be fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Of an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
    /// Which machine, in an index; passed through as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
}

/// What we need to know of a manifest; its exact bytes are kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Config and layers of an image manifest, in order, config first.
    pub blobs: Vec<Descriptor>,
    /// Children of an index.
    pub children: Vec<Descriptor>,
    /// OCI 1.1 referrers.
    pub subject: Option<Descriptor>,
    /// `artifactType`, or the config's media type.
    pub artifact_type: Option<String>,
    /// Free text.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Manifest {
    /// Parses and checks; `content_type` must agree with the body's own `mediaType`.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, RegistryError> {
        let _ = (bytes, content_type);
        todo!()
    }
}
