//! The OCI registry, written once for both sides.
//!
//! Owns digests, names, tags, manifests, error codes, routes, ranges, the read half of `/v2/`
//! over the [`Pull`] trait, single flight per key, and blobs that grow while they are read.
//! Never knows where bytes come from.

pub mod access;
pub mod blob;
pub mod chunks;
pub mod digest;
pub mod error;
pub mod file;
pub mod flight;
pub mod growing;
pub mod manifest;
pub mod name;
pub mod origin_api;
pub mod pull;
pub mod range;
pub mod referrers;
pub mod route;
pub mod serve;

pub use access::{Access, Action, Caller, OpenAccess};
pub use blob::{Blob, BlobError, BlobStream, BytesBlob};
pub use digest::{Digest, Verifier};
pub use error::{ErrorCode, RegistryError};
pub use file::FileBlob;
pub use flight::Flights;
pub use growing::{GrowingBlob, Source, SourceReader};
pub use manifest::{Descriptor, Manifest};
pub use name::{Reference, RepoName, Tag};
pub use pull::{Page, Pull, StoredManifest, TagPage};
pub use referrers::ReferrersPage;
