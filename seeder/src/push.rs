//! The registry's port: the push half of `/v2/` as requests and responses; the read half goes
//! to [`oci::serve`].
//!
//! Bodies are received by tasks of their own, so that a client that goes away neither loses a
//! commit under way nor leaves a session half-written. There is no deadline on a body; one
//! that stalls is cut by the port.

mod room;
#[cfg(test)]
mod tests;
mod uploads;

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use oci::route::{Route, query_value};
use oci::serve::{Service, caller, read};
use oci::{Action, Caller, Digest, ErrorCode, Reference, RegistryError, RepoName};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::registry::Registry;
use crate::sessions::Sessions;

use room::Received;
pub(crate) use room::Room;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Both halves of an origin's registry. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RegistryPort {
    pub(crate) registry: Arc<Registry>,
    pub(crate) sessions: Arc<Sessions>,
    /// How many uploads have bytes in memory at once.
    pub(crate) receiving: Arc<Semaphore>,
    /// For the bytes of manifests.
    pub(crate) room: Arc<Room>,
    /// Owns the tasks that receive.
    pub(crate) tasks: TaskTracker,
}

type Answer = Result<Response, RegistryError>;

impl Service for RegistryPort {
    async fn call(&self, request: Request) -> Response {
        let route = match Route::parse(request.uri().path()) {
            Ok(route) => route,
            Err(error) => return with_version(error.into_response()),
        };
        let kind = route.kind();
        let response = self.answer(route, request).await;
        self.registry.metrics().registry.counted(kind, response)
    }
}

impl RegistryPort {
    async fn answer(&self, route: Route, request: Request) -> Response {
        let method = request.method().clone();
        let caller = caller(&request);
        let answer = match (method, route) {
            (Method::POST, Route::Uploads(repo)) => self.start(&caller, repo, request).await,
            (Method::PATCH, Route::Upload(repo, id)) => {
                self.append(&caller, repo, id, request).await
            }
            (Method::PUT, Route::Upload(repo, id)) => self.close(&caller, repo, id, request).await,
            (Method::GET | Method::HEAD, Route::Upload(repo, id)) => {
                self.status(&caller, &repo, &id)
            }
            (Method::DELETE, Route::Upload(repo, id)) => self.cancel(&caller, &repo, &id),
            (Method::PUT, Route::Manifest(repo, reference)) => {
                self.put_manifest(&caller, repo, reference, request).await
            }
            (Method::DELETE, Route::Manifest(repo, reference)) => {
                self.delete_manifest(&caller, &repo, &reference).await
            }
            (Method::DELETE, Route::Blob(repo, digest)) => {
                self.delete_blob(&caller, &repo, &digest).await
            }
            (Method::GET | Method::HEAD, route @ (Route::Base | Route::Catalog))
            | (
                Method::GET | Method::HEAD,
                route @ (Route::Tags(_)
                | Route::Manifest(..)
                | Route::Blob(..)
                | Route::Referrers(..)),
            ) => {
                return read(
                    &self.registry,
                    self.registry.access().as_ref(),
                    route,
                    request,
                )
                .await;
            }
            (method, route) => Err(unsupported(&method, &route)),
        };
        with_version(answer.unwrap_or_else(IntoResponse::into_response))
    }

    async fn put_manifest(
        &self,
        caller: &Caller,
        repo: RepoName,
        reference: Reference,
        request: Request,
    ) -> Answer {
        let digest = match &reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        self.registry.permit(caller, Action::Push, &repo, digest)?;
        let content_type = text(request.headers(), &CONTENT_TYPE).map(str::to_owned);
        let announced = length(request.headers());
        let Received { bytes, room } = self.room.receive(request.into_body(), announced).await?;
        let registry = Arc::clone(&self.registry);
        let (name, by) = (repo.clone(), reference.clone());
        let put = self.tasks.spawn(async move {
            let _room = room;
            registry
                .put_manifest(&name, &by, content_type.as_deref(), bytes)
                .await
        });
        let put = put.await.map_err(|_| interrupted())??;
        let location = Route::Manifest(repo, Reference::Digest(put.digest.clone())).path();
        let mut response = created(&location, &put.digest);
        if let Some(subject) = &put.subject {
            response.headers_mut().insert(SUBJECT, header(subject));
        }
        Ok(response)
    }

    async fn delete_manifest(
        &self,
        caller: &Caller,
        repo: &RepoName,
        reference: &Reference,
    ) -> Answer {
        match reference {
            Reference::Tag(tag) => {
                self.registry.permit(caller, Action::Delete, repo, None)?;
                self.registry.delete_tag(repo, tag).await?;
            }
            Reference::Digest(digest) => {
                self.registry
                    .permit(caller, Action::Delete, repo, Some(digest))?;
                self.registry.delete_manifest(repo, digest).await?;
            }
        }
        Ok(empty(StatusCode::ACCEPTED))
    }

    async fn delete_blob(&self, caller: &Caller, repo: &RepoName, digest: &Digest) -> Answer {
        self.registry
            .permit(caller, Action::Delete, repo, Some(digest))?;
        self.registry.delete_blob(repo, digest).await?;
        Ok(empty(StatusCode::ACCEPTED))
    }
}

fn created(location: &str, digest: &Digest) -> Response {
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(LOCATION, header(location));
    headers.insert(CONTENT_DIGEST, header(digest));
    response
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    // A 204 has no length; the others say theirs, whoever keeps the connection.
    if status != StatusCode::NO_CONTENT {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

fn with_version(mut response: Response) -> Response {
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(API_VERSION, version);
    response
}

fn header(value: impl Display) -> HeaderValue {
    HeaderValue::from_str(&value.to_string()).expect("names, digests and numbers are ASCII")
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// A query's value as what it should be; the answer when it is none.
fn parsed<T>(request: &Request, key: &str) -> Result<Option<T>, RegistryError>
where
    T: std::str::FromStr,
    RegistryError: From<T::Err>,
{
    let value: Option<Cow<'_, str>> = query_value(request.uri().query(), key);
    Ok(value.map(|text| text.parse()).transpose()?)
}

fn unsupported(method: &Method, route: &Route) -> RegistryError {
    let message = format!("{method} is not possible on {}", route.path());
    RegistryError::new(ErrorCode::Unsupported, message)
}

/// The task was ended with the origin, or by a bug that the panic hook has told about.
fn interrupted() -> RegistryError {
    RegistryError::new(
        ErrorCode::Internal,
        "the origin could not finish the request",
    )
}
