//! The tag API: which manifest a tag names, for people and tools that know Kraken's build
//! index.
//!
//! ```text
//! GET, HEAD /tags/<repo>:<tag>                   the digest, as plain text
//! PUT       /tags/<repo>:<tag>/digest/<digest>   points it there; the manifest must be here
//! GET       /repositories/<repo>/tags            tags, a page at a time: ?limit=&offset=
//! GET       /list/<prefix>                       <repo>:<tag> of every repository below it
//! GET       /health                              OK
//! ```
//!
//! Slashes of repository names may be plain or escaped. A PUT with `If-Match: "<digest>"`, or
//! `If-None-Match: *`, moves the tag only from where its writer saw it; `If-Match: *` moves one
//! that exists.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use oci::route::query_value;
use oci::serve::{Service, caller};
use oci::{Action, Caller, Digest, ErrorCode, Page, RegistryError, RepoName, Tag};
use serde_json::json;

use crate::api::{decoded, plain};
use crate::registry::{PutTagError, Registry, storage};
use crate::store::Expect;

/// Names in one answer when `limit` says nothing, and at most.
const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;

/// The tag API of an origin. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TagPort {
    pub(crate) registry: Arc<Registry>,
}

type Answer = Result<Response, RegistryError>;

impl Service for TagPort {
    async fn call(&self, request: Request) -> Response {
        let is_head = request.method() == Method::HEAD;
        let caller = caller(&request);
        let answer = self.answer(&caller, &request.into_parts().0).await;
        let answer = answer.unwrap_or_else(IntoResponse::into_response);
        if is_head {
            answer.map(|_| axum::body::Body::empty())
        } else {
            answer
        }
    }
}

impl TagPort {
    async fn answer(&self, caller: &Caller, request: &Parts) -> Answer {
        let path = decoded(request.uri.path());
        let query = request.uri.query();
        let reading = matches!(request.method, Method::GET | Method::HEAD);
        if let Some(rest) = path.strip_prefix("/tags/") {
            return match request.method {
                Method::GET | Method::HEAD => self.tag(caller, rest).await,
                Method::PUT => self.put(caller, rest, &request.headers).await,
                ref method => Err(unsupported(method, &path)),
            };
        }
        if !reading {
            return Err(unsupported(&request.method, &path));
        }
        if let Some(repo) = path
            .strip_prefix("/repositories/")
            .and_then(|rest| rest.strip_suffix("/tags"))
        {
            return self.tags(caller, repo, &path, query).await;
        }
        match path
            .strip_prefix("/list/")
            .or((path == "/list").then_some(""))
        {
            Some(prefix) => self.list(caller, prefix, &path, query).await,
            None if path == "/health" => Ok(plain(StatusCode::OK, "OK\n".into())),
            None => {
                let message = format!("there is nothing at {path}");
                Err(RegistryError::new(ErrorCode::Unsupported, message)
                    .with_status(StatusCode::NOT_FOUND))
            }
        }
    }

    async fn tag(&self, caller: &Caller, name: &str) -> Answer {
        let (repo, tag) = named(name)?;
        self.registry.permit(caller, Action::Pull, &repo, None)?;
        let found = self
            .registry
            .stores()
            .tags
            .tag(&repo, &tag)
            .await
            .map_err(storage)?;
        let Some(digest) = found else {
            let message = format!("there is no tag {repo}:{tag}");
            return Err(RegistryError::new(ErrorCode::ManifestUnknown, message));
        };
        Ok(with_etag(
            plain(StatusCode::OK, digest.to_string()),
            &digest,
        ))
    }

    async fn put(&self, caller: &Caller, rest: &str, headers: &HeaderMap) -> Answer {
        let Some((name, digest)) = rest.rsplit_once("/digest/") else {
            let message = "a tag is put at /tags/<repository>:<tag>/digest/<digest>";
            return Err(RegistryError::new(ErrorCode::Unsupported, message));
        };
        let (repo, tag) = named(name)?;
        let digest: Digest = digest.parse()?;
        self.registry
            .permit(caller, Action::Push, &repo, Some(&digest))?;
        let expect = expected(headers)?;
        match self.registry.put_tag(&repo, &tag, &digest, expect).await {
            Ok(()) => Ok(with_etag(plain(StatusCode::OK, String::new()), &digest)),
            Err(PutTagError::Registry(error)) => Err(error),
            Err(PutTagError::Conflict(found)) => {
                let at = found.map_or_else(|| "not there".into(), |found| format!("at {found}"));
                let message = format!("{repo}:{tag} is {at}");
                let error = RegistryError::new(ErrorCode::TagInvalid, message);
                Err(error.with_status(StatusCode::PRECONDITION_FAILED))
            }
        }
    }

    async fn tags(&self, caller: &Caller, repo: &str, path: &str, query: Option<&str>) -> Answer {
        let repo: RepoName = repo.parse()?;
        self.registry.permit(caller, Action::Pull, &repo, None)?;
        let window = Window::of(query)?;
        let page = Page {
            n: Some(window.end() + 1),
            last: None,
        };
        let found = self
            .registry
            .stores()
            .tags
            .tags(&repo, &page)
            .await
            .map_err(storage)?;
        Ok(window.answer(path, found.names))
    }

    /// Walks repositories in order until the window is full.
    async fn list(&self, caller: &Caller, prefix: &str, path: &str, query: Option<&str>) -> Answer {
        let window = Window::of(query)?;
        let stores = self.registry.stores();
        let repos = stores
            .repos
            .repositories(&Page::default())
            .await
            .map_err(storage)?;
        let mut found = Vec::new();
        for name in repos.names {
            let Ok(repo) = name.parse::<RepoName>() else {
                continue;
            };
            let related = name.starts_with(prefix) || prefix.starts_with(&name);
            if !related
                || self
                    .registry
                    .permit(caller, Action::Pull, &repo, None)
                    .is_err()
            {
                continue;
            }
            let tags = stores
                .tags
                .tags(&repo, &Page::default())
                .await
                .map_err(storage)?;
            let full = tags.names.iter().map(|tag| format!("{repo}:{tag}"));
            found.extend(full.filter(|full| full.starts_with(prefix)));
            if found.len() > window.end() {
                break;
            }
        }
        Ok(window.answer(path, found))
    }
}

/// `limit` names that follow the first `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    offset: usize,
    limit: usize,
}

impl Window {
    fn of(query: Option<&str>) -> Result<Self, RegistryError> {
        let number = |key: &str, default: usize| match query_value(query, key) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| {
                let message = format!("{key} is a whole number");
                RegistryError::new(ErrorCode::PaginationNumberInvalid, message)
            }),
        };
        let limit = number("limit", DEFAULT_LIMIT)?.clamp(1, MAX_LIMIT);
        // An offset is bounded by what there can be; it must not overflow a sum.
        let offset = number("offset", 0)?.min(usize::MAX / 4);
        Ok(Self { offset, limit })
    }

    fn end(self) -> usize {
        self.offset + self.limit
    }

    /// The names within, and where the next ones are; `found` has one more when there are.
    fn answer(self, path: &str, found: Vec<String>) -> Response {
        let more = found.len() > self.end();
        let names: Vec<_> = found
            .into_iter()
            .skip(self.offset)
            .take(self.limit)
            .collect();
        let at = |offset: usize| format!("{path}?limit={}&offset={offset}", self.limit);
        let next = if more { at(self.end()) } else { String::new() };
        let body = json!({
            "links": { "self": at(self.offset), "next": next },
            "size": names.len(),
            "result": names,
        });
        let mut response = plain(StatusCode::OK, body.to_string());
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

fn named(name: &str) -> Result<(RepoName, Tag), RegistryError> {
    let Some((repo, tag)) = name.rsplit_once(':') else {
        let message = "a tag is named <repository>:<tag>";
        return Err(RegistryError::new(ErrorCode::TagInvalid, message));
    };
    Ok((repo.parse()?, tag.parse()?))
}

fn expected(headers: &HeaderMap) -> Result<Expect, RegistryError> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    if text(IF_NONE_MATCH) == Some("*") {
        return Ok(Expect::Absent);
    }
    match text(IF_MATCH) {
        None => Ok(Expect::Any),
        Some("*") => Ok(Expect::Present),
        Some(etag) => Ok(Expect::Digest(etag.trim_matches('"').parse()?)),
    }
}

fn with_etag(mut response: Response, digest: &Digest) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{digest}\"")).expect("digests are ASCII");
    response.headers_mut().insert(ETAG, etag);
    response
}

fn unsupported(method: &Method, path: &str) -> RegistryError {
    RegistryError::new(
        ErrorCode::Unsupported,
        format!("{method} is not possible on {path}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_at_the_last_colon() {
        let (repo, tag) = named("team/app:v1").unwrap();
        assert_eq!((repo.as_str(), tag.as_str()), ("team/app", "v1"));
        assert!(named("team/app").is_err());
        assert!(named("Team/app:v1").is_err());
        assert!(named("team/app:").is_err());
    }

    #[test]
    fn windows_are_bounded() {
        assert_eq!(
            Window::of(None).unwrap(),
            Window {
                offset: 0,
                limit: DEFAULT_LIMIT
            }
        );
        let window = Window::of(Some("limit=999999999999&offset=18446744073709551615")).unwrap();
        assert_eq!(window.limit, MAX_LIMIT);
        assert!(window.end() > window.offset);
        assert!(Window::of(Some("limit=-1")).is_err());
    }
}
