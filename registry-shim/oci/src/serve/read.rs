//! The read half of `/v2/`: a route and a request become a response.
//!
//! Rules that real clients depend on, each checked by a test below this crate's `tests/`:
//! - Blob headers (status, exact length, digest) go out before the first byte is at hand, and
//!   the body has exactly that length or the connection is cut; so a client never takes a part
//!   for the whole, and resumes by `Range`.
//! - HEAD answers as GET does, without a body, and never claims bytes of the swarm.
//! - Blobs are never sent with a `Content-Encoding`: what is sent is what was hashed.
//! - `?ns=` (containerd's name of the mirrored registry) is not looked at here.
//!
//! A stored manifest is sent whatever `Accept` says. Docker, containerd, podman and crane
//! name every type they can read; curl and scripts name none, and ask for nothing more than
//! the bytes. A client that cannot read what the author pushed is better told so by itself
//! ("unsupported media type …") than by a 404 that reads as if the image did not exist; and
//! RFC 9110 (12.5.1) prefers disregarding `Accept` to an answer nobody can use. Nothing could
//! be converted anyway: another type is another digest.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;
use serde_json::json;

use super::body::BlobBody;
use crate::access::{Access, Action, Caller};
use crate::blob::Blob;
use crate::digest::Digest;
use crate::error::{ErrorCode, RegistryError};
use crate::manifest::OCI_INDEX;
use crate::name::{Reference, RepoName};
use crate::pull::{Page, Pull, TagPage};
use crate::range::{self, Ranged};
use crate::referrers::Wanted;
use crate::route::{Route, query_value};

/// Names in one page of tags or repositories at most, whatever `n` says.
pub const MAX_PAGE: usize = 10_000;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Content under a digest never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

type Answer = Result<Response, RegistryError>;

/// Who asks, from a request: its address extension (set by [`listen`](super::listen)) and
/// headers.
pub fn caller(request: &Request) -> Caller {
    let authorization = request.headers().get(header::AUTHORIZATION);
    Caller {
        addr: request.extensions().get::<SocketAddr>().copied(),
        authorization: authorization
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
    }
}

/// Answers a GET or HEAD of the read half; other methods get 405 UNSUPPORTED.
pub async fn read<P: Pull>(
    pull: &Arc<P>,
    access: &dyn Access,
    route: Route,
    request: Request,
) -> Response {
    let is_head = request.method() == Method::HEAD;
    let answer = if is_head || request.method() == Method::GET {
        let asked = Asked {
            pull: pull.as_ref(),
            access,
            caller: caller(&request),
            headers: request.headers(),
            query: request.uri().query(),
            is_head,
        };
        asked.answer(route).await
    } else {
        Err(not_here(&route, request.method()))
    };
    let mut response = answer.unwrap_or_else(refusal);
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(API_VERSION, version);
    if is_head {
        without_body(response)
    } else {
        response
    }
}

/// One request, and whom to ask.
struct Asked<'r, P> {
    pull: &'r P,
    access: &'r dyn Access,
    caller: Caller,
    headers: &'r HeaderMap,
    query: Option<&'r str>,
    is_head: bool,
}

impl<P: Pull> Asked<'_, P> {
    async fn answer(&self, route: Route) -> Answer {
        match route {
            Route::Base => Ok(json_response(&json!({}))),
            Route::Catalog => self.catalog().await,
            Route::Tags(repo) => self.tags(&repo).await,
            Route::Manifest(repo, reference) => self.manifest(&repo, &reference).await,
            Route::Blob(repo, digest) => self.blob(&repo, &digest).await,
            Route::Referrers(repo, digest) => self.referrers(&repo, &digest).await,
            Route::Uploads(_) | Route::Upload(..) => Err(not_here(&route, &Method::GET)),
        }
    }

    fn permit(&self, repo: &RepoName, digest: Option<&Digest>) -> Result<(), RegistryError> {
        self.access.check(&self.caller, Action::Pull, repo, digest)
    }

    async fn catalog(&self) -> Answer {
        let page = self.page()?;
        let found = self.pull.catalog(&self.caller, &page).await?;
        let (mut names, next) = cut_page(found, &page);
        // After the cut, so that the next page begins where this one ended for everybody.
        let visible = |name: &String| {
            name.parse()
                .is_ok_and(|repo| self.permit(&repo, None).is_ok())
        };
        names.retain(visible);
        let response = json_response(&json!({ "repositories": names }));
        Ok(with_next(response, &Route::Catalog, None, &page, next))
    }

    async fn tags(&self, repo: &RepoName) -> Answer {
        self.permit(repo, None)?;
        let page = self.page()?;
        let found = self.pull.tags(&self.caller, repo, &page).await?;
        let (names, next) = cut_page(found, &page);
        let response = json_response(&json!({ "name": repo, "tags": names }));
        let route = Route::Tags(repo.clone());
        Ok(with_next(response, &route, None, &page, next))
    }

    async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Answer {
        let digest = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        self.permit(repo, digest)?;
        let stored = self.pull.manifest(&self.caller, repo, reference).await?;
        let etag = etag(&stored.digest);
        if self.is_known(&etag) {
            return Ok(not_modified(etag));
        }
        let Ok(media_type) = HeaderValue::from_str(&stored.media_type) else {
            let message = format!("the media type of {} is no header value", stored.digest);
            return Err(RegistryError::new(ErrorCode::Internal, message));
        };
        let length = stored.bytes.len() as u64;
        let mut response = Response::new(Body::from(stored.bytes));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(CONTENT_DIGEST, ascii(&stored.digest.to_string()));
        headers.insert(header::ETAG, etag);
        Ok(response)
    }

    async fn blob(&self, repo: &RepoName, digest: &Digest) -> Answer {
        self.permit(repo, Some(digest))?;
        let etag = etag(digest);
        let blob = self.pull.blob(&self.caller, repo, digest).await?;
        if self.is_known(&etag) {
            return Ok(not_modified(etag));
        }
        let (length, trouble) = (blob.length(), blob.trouble());
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        let (status, part) = match self.range(&etag, length) {
            Ranged::Whole => (StatusCode::OK, 0..length),
            Ranged::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Ranged::Unsatisfiable => return Ok(unsatisfiable(digest, length)),
        };
        let mut response = Response::new(self.blob_body(blob, repo, digest, &part));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, OCTETS);
        headers.insert(header::CONTENT_LENGTH, (part.end - part.start).into());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CONTENT_DIGEST, ascii(&digest.to_string()));
        headers.insert(header::ETAG, etag);
        headers.insert(header::CACHE_CONTROL, FOR_EVER);
        if status == StatusCode::PARTIAL_CONTENT {
            let value = ascii(&range::content_range(&part, length));
            headers.insert(header::CONTENT_RANGE, value);
        }
        Ok(response)
    }

    fn blob_body(
        &self,
        blob: Arc<dyn Blob>,
        repo: &RepoName,
        digest: &Digest,
        part: &Range<u64>,
    ) -> Body {
        if self.is_head || part.is_empty() {
            return Body::empty();
        }
        Body::new(BlobBody::new(
            blob,
            part.clone(),
            repo.clone(),
            digest.clone(),
        ))
    }

    async fn referrers(&self, repo: &RepoName, digest: &Digest) -> Answer {
        self.permit(repo, Some(digest))?;
        let filter = query_value(self.query, "artifactType").filter(|text| !text.is_empty());
        let filter = filter.map(std::borrow::Cow::into_owned);
        let Page { n, last } = self.page()?;
        let wanted = Wanted {
            artifact_type: filter.clone(),
            n,
            last: last.map(|last| last.parse()).transpose()?,
        };
        let page = self.pull.referrers_page(&self.caller, repo, digest, wanted);
        let (found, next) = page.await?.finish();
        let mut response = json_response(&json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": found,
        }));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        if filter.is_some() {
            headers.insert(FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        let page = Page { n, last: None };
        let route = Route::Referrers(repo.clone(), digest.clone());
        let next = next.map(|next| next.to_string());
        Ok(with_next(response, &route, filter.as_deref(), &page, next))
    }

    /// `n` and `last`. A missing `n` leaves the bound to whoever has the names.
    fn page(&self) -> Result<Page, RegistryError> {
        let n = match query_value(self.query, "n") {
            None => None,
            Some(text) => Some(page_size(&text)?),
        };
        let last = query_value(self.query, "last").filter(|last| !last.is_empty());
        Ok(Page {
            n,
            last: last.map(std::borrow::Cow::into_owned),
        })
    }

    /// Which part is wanted. A HEAD has no parts (RFC 9110, 14.2); an `If-Range` that is not
    /// this content's (a date never is: there is no `Last-Modified`) asks for everything.
    fn range(&self, etag: &HeaderValue, length: u64) -> Ranged {
        let still_ours = self.headers.get(header::IF_RANGE).is_none_or(|v| v == etag);
        if self.is_head || !still_ours {
            return Ranged::Whole;
        }
        let wanted = self.headers.get(header::RANGE);
        range::requested(wanted.and_then(|value| value.to_str().ok()), length)
    }

    /// Whether `If-None-Match` names this content.
    fn is_known(&self, etag: &HeaderValue) -> bool {
        let values = self.headers.get_all(header::IF_NONE_MATCH).iter();
        let mut tags = values.filter_map(|value| value.to_str().ok());
        tags.any(|list| {
            list.split(',').map(str::trim).any(|tag| {
                let strong = tag.strip_prefix("W/").unwrap_or(tag);
                tag == "*" || strong.as_bytes() == etag.as_bytes()
            })
        })
    }
}

/// `n` as a number; more than [`MAX_PAGE`] is taken as that.
fn page_size(text: &str) -> Result<usize, RegistryError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        let message = format!(
            "n must be a whole number, not {:?}",
            crate::error::shortened(text, 40)
        );
        return Err(RegistryError::new(
            ErrorCode::PaginationNumberInvalid,
            message,
        ));
    }
    Ok(text.parse().map_or(MAX_PAGE, |n: usize| n.min(MAX_PAGE)))
}

/// The names of this page, and after which one the next page begins, if there is one. An
/// empty page (`n=0`) has no next one: it would lead to itself.
fn cut_page(found: TagPage, page: &Page) -> (Vec<String>, Option<String>) {
    let TagPage {
        mut names,
        mut more,
    } = found;
    if let Some(n) = page.n
        && names.len() > n
    {
        names.truncate(n);
        more = true;
    }
    let next = names.last().filter(|_| more).cloned();
    (names, next)
}

fn with_next(
    mut response: Response,
    route: &Route,
    filter: Option<&str>,
    page: &Page,
    next: Option<String>,
) -> Response {
    if let Some(last) = next {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(artifact_type) = filter {
            query.append_pair("artifactType", artifact_type);
        }
        if let Some(n) = page.n {
            query.append_pair("n", &n.to_string());
        }
        query.append_pair("last", &last);
        let link = format!("<{}?{}>; rel=\"next\"", route.path(), query.finish());
        response.headers_mut().insert(header::LINK, ascii(&link));
    }
    response
}

fn json_response(body: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn not_modified(etag: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response.headers_mut().insert(header::ETAG, etag);
    response
}

fn unsatisfiable(digest: &Digest, length: u64) -> Response {
    let message = format!("{digest} has {length} bytes: the range begins after its end");
    let mut response = RegistryError::new(ErrorCode::RangeInvalid, message).into_response();
    let value = ascii(&range::unsatisfied(length));
    response.headers_mut().insert(header::CONTENT_RANGE, value);
    response
}

/// 405. Whoever pushes to an agent should learn where to push instead.
fn not_here(route: &Route, method: &Method) -> RegistryError {
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let message = match route {
        Route::Uploads(_) | Route::Upload(..) | Route::Manifest(..) | Route::Blob(..)
            if changes =>
        {
            format!("{method} is not possible here: this registry serves pulls, push to an origin")
        }
        _ => format!("{method} is not possible on {}", route.path()),
    };
    RegistryError::new(ErrorCode::Unsupported, message)
}

fn refusal(error: RegistryError) -> Response {
    let mut response = error.into_response();
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let methods = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// The answer to a HEAD: what GET would say, length included, and nothing more.
fn without_body(mut response: Response) -> Response {
    let length = response.body().size_hint().exact();
    let bodiless = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    if let (Some(length), false) = (length, bodiless) {
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(length.into());
    }
    *response.body_mut() = Body::empty();
    response
}

fn etag(digest: &Digest) -> HeaderValue {
    ascii(&format!("\"{digest}\""))
}

/// A header value of text that is ours or passed the grammar of names, digests and numbers.
fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, digests and numbers are visible ASCII")
}
