//! `(method, path) → Route`, and back: one table for servers and clients.
//!
//! Repository names contain slashes, which no router pattern before a suffix can match; so
//! paths are parsed here, from the right: what a path names is told by its last components,
//! and everything before them is the repository, even if it contains `blobs` or `manifests`.
//! Whatever is not in the table is refused here; a route that exists holds only valid names.

use std::borrow::Cow;

use http::StatusCode;
use percent_encoding::percent_decode_str;

use crate::digest::Digest;
use crate::error::{ErrorCode, RegistryError, shortened};
use crate::name::{Reference, RepoName, Tag};

/// Bytes of an upload's id at most.
pub const MAX_UPLOAD_ID: usize = 128;
/// Text of a refused path that is repeated in an error; the rest is cut.
const SHOWN: usize = 200;

/// A place below `/v2/`. The method is the caller's to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/` and `/v2`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags(RepoName),
    /// `/v2/<name>/manifests/<reference>`.
    Manifest(RepoName, Reference),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/`, with or without the last slash.
    Uploads(RepoName),
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload(RepoName, String),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(RepoName, Digest),
}

impl Route {
    /// Reads a path (percent-encoded as it came, no query). `Err` is the answer to give:
    /// NAME_INVALID, DIGEST_INVALID, TAG_INVALID, or a plain 404 outside the table.
    pub fn parse(path: &str) -> Result<Self, RegistryError> {
        // A broken escape leaves its `%` in the text, and no grammar below takes a `%`.
        let decoded = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| outside(path))?;
        let rest = match decoded.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Base),
            Some("/_catalog") => return Ok(Self::Catalog),
            Some(rest) => rest.strip_prefix('/').ok_or_else(|| outside(path))?,
            None => return Err(outside(path)),
        };
        Self::of_repository(rest).unwrap_or_else(|| Err(outside(path)))
    }

    /// The path for a client. Nothing in it needs an escape: names, tags, digests and upload
    /// ids have no character that means something in a path.
    pub fn path(&self) -> String {
        match self {
            Self::Base => "/v2/".to_owned(),
            Self::Catalog => "/v2/_catalog".to_owned(),
            Self::Tags(repo) => format!("/v2/{repo}/tags/list"),
            Self::Manifest(repo, reference) => format!("/v2/{repo}/manifests/{reference}"),
            Self::Blob(repo, digest) => format!("/v2/{repo}/blobs/{digest}"),
            Self::Uploads(repo) => format!("/v2/{repo}/blobs/uploads/"),
            Self::Upload(repo, id) => format!("/v2/{repo}/blobs/uploads/{id}"),
            Self::Referrers(repo, digest) => format!("/v2/{repo}/referrers/{digest}"),
        }
    }

    /// The repository it lies in.
    pub fn repo(&self) -> Option<&RepoName> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(repo)
            | Self::Manifest(repo, _)
            | Self::Blob(repo, _)
            | Self::Uploads(repo)
            | Self::Upload(repo, _)
            | Self::Referrers(repo, _) => Some(repo),
        }
    }

    /// A word for it, for counters and logs: one of a handful.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }

    /// What follows `/v2/`. `None` when it is no place of the table.
    fn of_repository(rest: &str) -> Option<Result<Self, RegistryError>> {
        if let Some(repo) = rest.strip_suffix("/blobs/uploads/") {
            return Some(name(repo).map(Self::Uploads));
        }
        let (before, last) = rest.rsplit_once('/')?;
        let (repo, kind) = before.rsplit_once('/')?;
        Some(match (kind, last) {
            ("tags", "list") => name(repo).map(Self::Tags),
            // No digest is spelled "uploads", so this takes nothing away from blobs.
            ("blobs", "uploads") => name(repo).map(Self::Uploads),
            ("blobs", digest) => place(repo, digest, Self::Blob),
            ("referrers", digest) => place(repo, digest, Self::Referrers),
            ("manifests", text) => {
                name(repo).and_then(|repo| Ok(Self::Manifest(repo, reference(text)?)))
            }
            ("uploads", id) if is_upload_id(id) => {
                let repo = repo.strip_suffix("/blobs")?;
                name(repo).map(|repo| Self::Upload(repo, id.to_owned()))
            }
            _ => return None,
        })
    }
}

/// The first value of `key` in a query string, decoded. The same for every handler, so that
/// `digest=sha256%3a…` and `digest=sha256:…` are one digest everywhere.
pub fn query_value<'q>(query: Option<&'q str>, key: &str) -> Option<Cow<'q, str>> {
    form_urlencoded::parse(query?.as_bytes())
        .find_map(|(name, value)| (name == key).then_some(value))
}

fn name(text: &str) -> Result<RepoName, RegistryError> {
    Ok(text.parse::<RepoName>()?)
}

fn place(
    repo: &str,
    digest: &str,
    route: fn(RepoName, Digest) -> Route,
) -> Result<Route, RegistryError> {
    Ok(route(name(repo)?, digest.parse::<Digest>()?))
}

/// A text that can be no tag names no manifest: 404, as the reference implementation's router
/// answers and the conformance suite asks, not the 400 of the code.
fn reference(text: &str) -> Result<Reference, RegistryError> {
    if text.contains(':') {
        return Ok(Reference::Digest(text.parse()?));
    }
    match text.parse::<Tag>() {
        Ok(tag) => Ok(Reference::Tag(tag)),
        Err(error) => Err(RegistryError::from(error).with_status(StatusCode::NOT_FOUND)),
    }
}

fn is_upload_id(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=MAX_UPLOAD_ID).contains(&text.len()) && text.bytes().all(plain)
}

fn outside(path: &str) -> RegistryError {
    let path = shortened(path, SHOWN);
    RegistryError::new(
        ErrorCode::Unsupported,
        format!("{path} is no place in a registry"),
    )
    .with_status(StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn repo(text: &str) -> RepoName {
        text.parse().unwrap()
    }

    fn digest() -> Digest {
        format!("sha256:{HEX}").parse().unwrap()
    }

    fn tag(text: &str) -> Reference {
        Reference::Tag(text.parse().unwrap())
    }

    #[test]
    fn places() {
        let (a, sha) = (|| repo("a"), format!("sha256:{HEX}"));
        let by_digest = Reference::Digest(digest());
        for (path, expected) in [
            ("/v2".to_owned(), Route::Base),
            ("/v2/".into(), Route::Base),
            ("/v2/_catalog".into(), Route::Catalog),
            ("/v2/a/tags/list".into(), Route::Tags(a())),
            ("/v2/a/manifests/v1".into(), Route::Manifest(a(), tag("v1"))),
            (
                format!("/v2/a/manifests/{sha}"),
                Route::Manifest(a(), by_digest),
            ),
            (format!("/v2/a/blobs/{sha}"), Route::Blob(a(), digest())),
            (
                format!("/v2/a/blobs/sha256%3A{HEX}"),
                Route::Blob(a(), digest()),
            ),
            (
                format!("/v2/a%2Fb/blobs/sha256%3a{HEX}"),
                Route::Blob(repo("a/b"), digest()),
            ),
            (
                format!("/v2/a/referrers/{sha}"),
                Route::Referrers(a(), digest()),
            ),
            ("/v2/a/blobs/uploads/".into(), Route::Uploads(a())),
            ("/v2/a/blobs/uploads".into(), Route::Uploads(a())),
            (
                "/v2/a/blobs/uploads/X_1-y".into(),
                Route::Upload(a(), "X_1-y".into()),
            ),
        ] {
            assert_eq!(Route::parse(&path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn repositories_named_like_routes() {
        let sha = format!("sha256:{HEX}");
        for (path, expected) in [
            (
                "/v2/ghcr.io/o/tags/tags/list",
                Route::Tags(repo("ghcr.io/o/tags")),
            ),
            (
                "/v2/a/manifests/manifests/list",
                Route::Manifest(repo("a/manifests"), tag("list")),
            ),
            (
                "/v2/a/tags/manifests/list",
                Route::Manifest(repo("a/tags"), tag("list")),
            ),
            (
                &format!("/v2/a/blobs/blobs/{sha}"),
                Route::Blob(repo("a/blobs"), digest()),
            ),
            (
                &format!("/v2/a/uploads/blobs/{sha}"),
                Route::Blob(repo("a/uploads"), digest()),
            ),
            (
                "/v2/a/blobs/uploads/uploads",
                Route::Upload(repo("a"), "uploads".into()),
            ),
            (
                "/v2/a/blobs/uploads/tags/list",
                Route::Tags(repo("a/blobs/uploads")),
            ),
            (
                "/v2/a/blobs/uploads/blobs/uploads/",
                Route::Uploads(repo("a/blobs/uploads")),
            ),
            ("/v2/a/blobs/uploads/manifests/v1", {
                Route::Manifest(repo("a/blobs/uploads"), tag("v1"))
            }),
        ] {
            assert_eq!(Route::parse(path).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn refused() {
        use ErrorCode::{DigestInvalid, NameInvalid, TagInvalid, Unsupported};
        let long = format!("/v2/a/blobs/uploads/{}", "x".repeat(MAX_UPLOAD_ID + 1));
        for (path, code, status) in [
            ("", Unsupported, 404),
            ("/", Unsupported, 404),
            ("/v1/", Unsupported, 404),
            ("/v2x", Unsupported, 404),
            ("/v2//", Unsupported, 404),
            ("/v2/a", Unsupported, 404),
            ("/v2/a/b/c", Unsupported, 404),
            ("/v2/_catalog/", Unsupported, 404),
            ("/v2/a/tags/list/", Unsupported, 404),
            ("/v2/a/tags/other", Unsupported, 404),
            ("/v2/a/uploads/x", Unsupported, 404),
            ("/v2/a/blobs/uploads/a.b", Unsupported, 404),
            ("/v2/a/blobs/uploads/a%00b", Unsupported, 404),
            (&long, Unsupported, 404),
            ("/v2/a/manifests/%ff", Unsupported, 404),
            ("/v2//tags/list", NameInvalid, 400),
            ("/v2/A/tags/list", NameInvalid, 400),
            ("/v2/a//b/manifests/v1", NameInvalid, 400),
            ("/v2/../etc/manifests/v1", NameInvalid, 400),
            ("/v2/%2e%2e/manifests/v1", NameInvalid, 400),
            ("/v2/a%2/manifests/v1", NameInvalid, 400),
            ("/v2/localhost:5000/manifests/v1", NameInvalid, 400),
            ("/v2/a/blobs/sha256:abc", DigestInvalid, 400),
            (
                "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
                DigestInvalid,
                400,
            ),
            ("/v2/a/blobs/", DigestInvalid, 400),
            ("/v2/a/referrers/x", DigestInvalid, 400),
            ("/v2/a/manifests/sha256:baddigeststring", DigestInvalid, 400),
            ("/v2/a/manifests/.INVALID_MANIFEST_NAME", TagInvalid, 404),
            ("/v2/a/manifests/", TagInvalid, 404),
        ] {
            let error = Route::parse(path).unwrap_err();
            assert_eq!(
                (error.code, error.status().as_u16()),
                (code, status),
                "{path}"
            );
        }
    }

    #[test]
    fn queries() {
        let query = Some("ns=docker.io&digest=sha256%3Aab&last=a%2Fb&empty=&digest=other");
        assert_eq!(query_value(query, "digest").unwrap(), "sha256:ab");
        assert_eq!(query_value(query, "last").unwrap(), "a/b");
        assert_eq!(query_value(query, "empty").unwrap(), "");
        assert_eq!(query_value(query, "n"), None);
        assert_eq!(query_value(None, "n"), None);
    }

    fn any_repo() -> impl Strategy<Value = RepoName> {
        let word = "[a-z0-9]{1,5}|blobs|uploads|manifests|tags|list|referrers|v2|a__b|x[.]y-z";
        proptest::collection::vec(word, 1..6)
            .prop_map(|words| words.join("/").parse::<RepoName>().unwrap())
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        prop_oneof![
            any::<[u8; 32]>().prop_map(Digest::from_sha256),
            any::<[u8; 8]>().prop_map(|seed| {
                let mut verifier = crate::Verifier::new(crate::digest::Algorithm::Sha512);
                verifier.update(&seed);
                verifier.finish()
            }),
        ]
    }

    fn any_tag() -> impl Strategy<Value = Tag> {
        "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|list|uploads|blobs".prop_map(|t| t.parse().unwrap())
    }

    fn any_route() -> impl Strategy<Value = Route> {
        prop_oneof![
            Just(Route::Base),
            Just(Route::Catalog),
            any_repo().prop_map(Route::Tags),
            (any_repo(), any_tag()).prop_map(|(r, t)| Route::Manifest(r, Reference::Tag(t))),
            (any_repo(), any_digest()).prop_map(|(r, d)| Route::Manifest(r, Reference::Digest(d))),
            (any_repo(), any_digest()).prop_map(|(r, d)| Route::Blob(r, d)),
            (any_repo(), any_digest()).prop_map(|(r, d)| Route::Referrers(r, d)),
            any_repo().prop_map(Route::Uploads),
            (any_repo(), "[A-Za-z0-9_-]{1,128}|uploads|list")
                .prop_map(|(r, id)| Route::Upload(r, id)),
        ]
    }

    proptest! {
        #[test]
        fn there_and_back(route in any_route()) {
            prop_assert_eq!(Route::parse(&route.path()).unwrap(), route);
        }

        #[test]
        fn any_text_is_answered(path in "\\PC{0,60}|/v2/[a-z/:%.]{0,60}") {
            if let Ok(route) = Route::parse(&path) {
                prop_assert_eq!(Route::parse(&route.path()).unwrap(), route);
            }
        }
    }
}
