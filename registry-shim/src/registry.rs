//! The registry port: the read half of `/v2/` over a [`Shim`], and a clear word to those who
//! push here.
//!
//! Mirrors are asked with `?ns=<the registry meant>`: see [`Namespaces`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oci::route::{Route, query_value};
use oci::serve::{self, Service};
use oci::{
    Blob, Caller, Descriptor, Digest, ErrorCode, OpenAccess, Page, Pull, Reference, RegistryError,
    RepoName, StoredManifest, TagPage,
};
use reqwest::header::HeaderValue;

use crate::herds::{Verdict, Wait};
use crate::metrics::{Kind, Outcome};
use crate::namespace::Namespaces;
use crate::origin::{Answer, Origin};
use crate::shim::{Shim, absent};

/// `Accept` lines passed on at most.
const MAX_ACCEPT: usize = 16;
/// Characters of a registry's name that are repeated in an error.
const SHOWN: usize = 80;

/// Serves the registry port.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    shim: Arc<Shim>,
    namespaces: Arc<Namespaces>,
}

impl Service for Registry {
    async fn call(&self, request: Request<Body>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.pull_only();
        }
        match Route::parse(request.uri().path()) {
            Ok(route) => {
                let asked = Arc::new(Asked::new(self.clone(), &request));
                serve::read(&asked, &OpenAccess, route, request).await
            }
            Err(error) => error.into_response(),
        }
    }
}

impl Registry {
    /// The registry port of an agent, which listens there.
    pub(crate) fn new(shim: Arc<Shim>, listens: SocketAddr) -> Self {
        let namespaces = Arc::new(Namespaces::new(&shim.config, listens));
        Self { shim, namespaces }
    }

    /// The answer to a push or delete.
    fn pull_only(&self) -> Response {
        let herd = match self.shim.config.herds.first() {
            Some(herd) => format!("the herd at {}", herd.name()),
            None => "a herd".to_owned(),
        };
        let message = format!("agents are pull-only; push to {herd}");
        RegistryError::new(ErrorCode::Unsupported, message)
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .into_response()
    }
}

/// One request, and what of it matters beyond its route.
struct Asked {
    shim: Arc<Shim>,
    namespaces: Arc<Namespaces>,
    /// The registry the client means, if it said so.
    registry: Option<String>,
    /// Manifest types it takes, as it said so.
    accept: Vec<HeaderValue>,
    /// Perhaps nothing but headers is wanted.
    unread: bool,
}

impl Asked {
    fn new(port: Registry, request: &Request<Body>) -> Self {
        let registry = query_value(request.uri().query(), "ns");
        let registry = registry.filter(|name| !name.is_empty());
        let accept = request.headers().get_all(header::ACCEPT);
        Self {
            shim: port.shim,
            namespaces: port.namespaces,
            registry: registry.map(Cow::into_owned),
            accept: accept.iter().take(MAX_ACCEPT).cloned().collect(),
            unread: request.method() == Method::HEAD
                || request.headers().contains_key(header::IF_NONE_MATCH),
        }
    }

    /// Where the repository is that the client means.
    fn place(&self, repo: &RepoName, unknown: ErrorCode) -> Result<RepoName, RegistryError> {
        let place = self.namespaces.place(self.registry.as_deref(), repo);
        place.ok_or_else(|| {
            let registry = self.registry.as_deref().unwrap_or_default();
            let registry: String = registry.chars().take(SHOWN).collect();
            RegistryError::new(unknown, format!("no image of {registry:?} is here"))
        })
    }

    fn count<T>(&self, kind: Kind, answer: Result<T, RegistryError>) -> Result<T, RegistryError> {
        if let Err(error) = &answer {
            let outcome = match error.code {
                ErrorCode::Denied | ErrorCode::Unauthorized => Outcome::denied,
                _ if is_unknown(error) => Outcome::unknown,
                _ => Outcome::failed,
            };
            self.shim.around.metrics.pulled(kind, outcome);
        }
        answer
    }

    /// Passes a question on to the origins.
    async fn forward<T, F>(
        &self,
        what: &str,
        unknown: impl FnOnce() -> Result<T, RegistryError>,
        question: impl Fn(Arc<Origin>) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Answer<T>>,
    {
        let wait = Wait::patiently(self.shim.around.patience.manifest);
        match self.shim.around.herds.ask(wait, question).await {
            Verdict::Found(found) => Ok(found),
            Verdict::Absent => unknown(),
            Verdict::Denied(error) | Verdict::Odd(error) => Err(error),
            Verdict::Unreachable(tried) => Err(tried.unavailable(what)),
        }
    }
}

impl Pull for Asked {
    async fn manifest(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<StoredManifest, RegistryError> {
        let found = match self.place(repo, ErrorCode::ManifestUnknown) {
            Ok(repo) => self.shim.manifest(&repo, reference, &self.accept).await,
            Err(error) => Err(error),
        };
        self.count(Kind::manifest, found)
    }

    async fn blob(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        let found = match self.place(repo, ErrorCode::BlobUnknown) {
            Ok(repo) if self.unread => self.shim.blob_unread(&repo, digest).await,
            Ok(repo) => self.shim.blob(&repo, digest).await,
            Err(error) => Err(error),
        };
        self.count(Kind::blob, found)
    }

    async fn tags(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        page: &Page,
    ) -> Result<TagPage, RegistryError> {
        let repo = &self.place(repo, ErrorCode::NameUnknown)?;
        let unknown = || Err(absent(ErrorCode::NameUnknown, repo, "tags here"));
        let what = format!("the tags of {repo}");
        self.forward(&what, unknown, |origin| async move {
            origin.tags(repo, page).await
        })
        .await
    }

    async fn catalog(&self, _caller: &Caller, page: &Page) -> Result<TagPage, RegistryError> {
        let unknown = || Ok(TagPage::default());
        self.forward("the catalog", unknown, |origin| async move {
            origin.catalog(page).await
        })
        .await
    }

    async fn referrers(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let repo = &self.place(repo, ErrorCode::NameUnknown)?;
        let what = format!("what refers to {digest}");
        // The specification answers with an empty list, never with 404.
        let unknown = || Ok(Vec::new());
        self.forward(&what, unknown, |origin| async move {
            origin.referrers(repo, digest).await
        })
        .await
    }
}

fn is_unknown(error: &RegistryError) -> bool {
    matches!(
        error.code,
        ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown | ErrorCode::NameUnknown
    )
}
