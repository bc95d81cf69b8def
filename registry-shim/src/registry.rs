//! The registry port: the read half of `/v2/` over a [`Shim`], and a clear word to those who
//! push here.
//!
//! Mirrors are asked with `?ns=<the registry meant>`. It is a key to look up, never an
//! address to dial: the name is tried as it is, then below the namespace.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oci::route::Route;
use oci::serve::{self, Service};
use oci::{
    Blob, Caller, Descriptor, Digest, ErrorCode, OpenAccess, Page, Pull, Reference, RegistryError,
    RepoName, StoredManifest, TagPage,
};
use reqwest::header::HeaderValue;

use crate::herds::Verdict;
use crate::metrics::{Kind, Outcome};
use crate::origin::{Answer, Origin};
use crate::shim::{Shim, absent};

/// `Accept` lines passed on at most.
const MAX_ACCEPT: usize = 16;

/// Serves the registry port.
#[derive(Debug, Clone)]
pub(crate) struct Registry(pub(crate) Arc<Shim>);

impl Service for Registry {
    async fn call(&self, request: Request<Body>) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.pull_only();
        }
        match Route::parse(request.uri().path()) {
            Ok(route) => {
                let asked = Arc::new(Asked::new(self.0.clone(), &request));
                serve::read(&asked, &OpenAccess, route, request).await
            }
            Err(error) => error.into_response(),
        }
    }
}

impl Registry {
    /// The answer to a push or delete.
    fn pull_only(&self) -> Response {
        let herd = match self.0.config.herds.first() {
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
    /// The registry the client means.
    namespace: Option<String>,
    /// Manifest types it takes, as it said so.
    accept: Vec<HeaderValue>,
    /// Nothing but headers is wanted.
    head: bool,
}

impl Asked {
    fn new(shim: Arc<Shim>, request: &Request<Body>) -> Self {
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let namespace = url::form_urlencoded::parse(query)
            .find(|(key, _)| key == "ns")
            .map(|(_, value)| value.into_owned());
        let accept = request.headers().get_all(header::ACCEPT);
        Self {
            shim,
            namespace,
            accept: accept.iter().take(MAX_ACCEPT).cloned().collect(),
            head: request.method() == Method::HEAD,
        }
    }

    /// Tries the repository as it is named, then below the namespace.
    async fn either<T, F>(
        &self,
        repo: &RepoName,
        find: impl Fn(RepoName) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, RegistryError>>,
    {
        let error = match find(repo.clone()).await {
            Err(error) if is_unknown(&error) => error,
            done => return done,
        };
        let below = self
            .namespace
            .as_ref()
            .and_then(|namespace| format!("{namespace}/{repo}").parse().ok());
        match below {
            Some(repo) => find(repo).await,
            None => Err(error),
        }
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
        let patience = self.shim.around.patience.manifest;
        match self.shim.around.herds.ask(patience, question).await {
            Verdict::Found(found) => Ok(found),
            Verdict::Absent { .. } => unknown(),
            Verdict::Denied(error) => Err(error),
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
        let find = |repo: RepoName| async move {
            self.shim.manifest(&repo, reference, &self.accept).await
        };
        self.count(Kind::manifest, self.either(repo, find).await)
    }

    async fn blob(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<dyn Blob>, RegistryError> {
        let find = |repo: RepoName| async move {
            if self.head {
                self.shim.blob_head(&repo, digest).await
            } else {
                self.shim.blob(&repo, digest).await
            }
        };
        self.count(Kind::blob, self.either(repo, find).await)
    }

    async fn tags(
        &self,
        _caller: &Caller,
        repo: &RepoName,
        page: &Page,
    ) -> Result<TagPage, RegistryError> {
        self.either(repo, |repo| async move {
            let repo = &repo;
            let unknown = || Err(absent(ErrorCode::NameUnknown, repo, "tags here"));
            let what = format!("the tags of {repo}");
            self.forward(&what, unknown, |origin| async move {
                origin.tags(repo, page).await
            })
            .await
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
        // The specification answers an empty list, never 404; so a namespace cannot be tried
        // when nothing is found, and is tried when nothing refers to the digest.
        let list = |repo: RepoName| async move {
            let repo = &repo;
            let what = format!("what refers to {digest}");
            self.forward(
                &what,
                || Ok(Vec::new()),
                |origin| async move { origin.referrers(repo, digest).await },
            )
            .await
        };
        let found = list(repo.clone()).await?;
        let below = self
            .namespace
            .as_ref()
            .and_then(|namespace| format!("{namespace}/{repo}").parse().ok());
        match below {
            Some(repo) if found.is_empty() => list(repo).await,
            _ => Ok(found),
        }
    }
}

fn is_unknown(error: &RegistryError) -> bool {
    matches!(
        error.code,
        ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown | ErrorCode::NameUnknown
    )
}
