//! What the read half of a registry needs from whoever has the content.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use crate::access::Caller;
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::manifest::Descriptor;
use crate::name::{Reference, RepoName};
use crate::referrers::{ReferrersPage, Wanted};

/// A manifest as it was pushed.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Of exactly these bytes.
    pub digest: Digest,
    /// As pushed.
    pub media_type: String,
    /// As pushed.
    pub bytes: Bytes,
}

/// `n` and `last`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many; `None` is the server's own bound.
    pub n: Option<usize>,
    /// After this one.
    pub last: Option<String>,
}

/// Names in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TagPage {
    /// This page.
    pub names: Vec<String>,
    /// Whether others follow.
    pub more: bool,
}

/// Whoever can answer pulls. Served by [`crate::serve`].
pub trait Pull: Send + Sync + 'static {
    /// A manifest by tag or digest.
    fn manifest(
        &self,
        caller: &Caller,
        repo: &RepoName,
        reference: &Reference,
    ) -> impl Future<Output = Result<StoredManifest, RegistryError>> + Send;
    /// A blob; its headers go out as soon as this returns. Asked for HEAD as well: whatever a
    /// reader costs should begin with [`Blob::stream`], which a HEAD never calls.
    fn blob(
        &self,
        caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> impl Future<Output = Result<Arc<dyn Blob>, RegistryError>> + Send;
    /// The repository's tags.
    fn tags(
        &self,
        caller: &Caller,
        repo: &RepoName,
        page: &Page,
    ) -> impl Future<Output = Result<TagPage, RegistryError>> + Send;
    /// Repositories.
    fn catalog(
        &self,
        caller: &Caller,
        page: &Page,
    ) -> impl Future<Output = Result<TagPage, RegistryError>> + Send;
    /// Manifests whose subject is `digest`.
    fn referrers(
        &self,
        caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> impl Future<Output = Result<Vec<Descriptor>, RegistryError>> + Send;
    /// A page of them, in the order of their digests. For those who would rather not gather
    /// all of them for each page.
    fn referrers_page(
        &self,
        caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
        wanted: Wanted,
    ) -> impl Future<Output = Result<ReferrersPage, RegistryError>> + Send {
        async move {
            let mut all = self.referrers(caller, repo, digest).await?;
            all.sort_by(|one, other| one.digest.cmp(&other.digest));
            let mut page = ReferrersPage::new(wanted);
            let _full = all.into_iter().find(|one| !page.add(one.clone()));
            Ok(page)
        }
    }
}
