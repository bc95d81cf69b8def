//! Registry errors: the codes of the distribution specification, their status, the JSON body.
//!
//! The message is a sentence for the person who typed `docker pull`: docker prints the first
//! error's message behind its code. Whatever refuses a registry request speaks through here.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::digest::InvalidDigest;
use crate::name::InvalidName;

/// The codes clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "named as in the specification")]
#[non_exhaustive]
pub enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    RangeInvalid,
    TagInvalid,
    PaginationNumberInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    /// 503: storage, swarm or upstream cannot serve now.
    Unavailable,
    /// 500: our own fault.
    Internal,
}

impl ErrorCode {
    /// As clients spell it. Docker prints a code it does not know as `unknown`, so those that
    /// are ours alone are spelled as the reference implementation spells them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "UNKNOWN",
        }
    }

    /// The status it is answered with, unless an error says otherwise.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An answer that is an error. Becomes `{"errors":[{code,message,detail}]}`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    /// The code, which decides the status unless `status` says otherwise.
    pub code: ErrorCode,
    /// For the person who typed `docker pull`: docker prints it.
    pub message: String,
    /// More, for tools.
    pub detail: Option<serde_json::Value>,
    /// A status that is not the code's own (413 for a manifest too large, ...).
    pub status: Option<StatusCode>,
    /// When to come back, on 429 and 503. Sent in whole seconds, rounded up.
    pub retry_after: Option<Duration>,
    /// What a 401 asks for, as it stands in `WWW-Authenticate`.
    pub challenge: Option<Box<str>>,
}

impl RegistryError {
    /// An error of that code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            status: None,
            retry_after: None,
            challenge: None,
        }
    }

    /// With a detail for tools.
    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// With a status of its own.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// With a time to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// With a challenge, for 401.
    #[must_use]
    pub fn with_challenge(mut self, challenge: impl Into<Box<str>>) -> Self {
        self.challenge = Some(challenge.into());
        self
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.code.status())
    }

    /// The JSON body.
    pub fn body(&self) -> String {
        let mut error = serde_json::json!({
            "code": self.code.as_str(),
            "message": self.message,
        });
        if let Some(detail) = &self.detail {
            error["detail"] = detail.clone();
        }
        serde_json::json!({ "errors": [error] }).to_string()
    }
}

impl IntoResponse for RegistryError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, seconds.into());
        }
        // A challenge is ours to compose, yet one that is no header must not end the process.
        if let Some(Ok(challenge)) = self.challenge.as_deref().map(HeaderValue::from_str) {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<InvalidDigest> for RegistryError {
    fn from(error: InvalidDigest) -> Self {
        Self::new(ErrorCode::DigestInvalid, error.to_string())
    }
}

impl From<InvalidName> for RegistryError {
    fn from(error: InvalidName) -> Self {
        let code = match error.1 {
            "tag" => ErrorCode::TagInvalid,
            "digest" => ErrorCode::DigestInvalid,
            _ => ErrorCode::NameInvalid,
        };
        Self::new(code, error.to_string())
    }
}

/// A text from outside for an error message: its first `limit` bytes or so.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at));
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_answer() {
        let error = RegistryError::new(ErrorCode::BlobUnknown, "no \"such\" blob")
            .with_detail(serde_json::json!({"digest": "sha256:x"}));
        let response = error.into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert!(response.headers().get(RETRY_AFTER).is_none());
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"errors": [{
                "code": "BLOB_UNKNOWN",
                "message": "no \"such\" blob",
                "detail": {"digest": "sha256:x"},
            }]})
        );
    }

    #[test]
    fn headers() {
        let busy = RegistryError::new(ErrorCode::Unavailable, "busy")
            .with_retry_after(Duration::from_millis(1500))
            .into_response();
        assert_eq!(busy.status(), 503);
        assert_eq!(busy.headers()[RETRY_AFTER], "2");

        let who = RegistryError::new(ErrorCode::Unauthorized, "who are you")
            .with_challenge("Basic realm=\"herd\"")
            .into_response();
        assert_eq!(who.status(), 401);
        assert_eq!(who.headers()[WWW_AUTHENTICATE], "Basic realm=\"herd\"");

        let large = RegistryError::new(ErrorCode::ManifestInvalid, "too large")
            .with_status(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(large.status(), 413);
    }

    #[test]
    fn grammar_errors_keep_their_kind() {
        let code = |e: RegistryError| e.code;
        let name = "A".parse::<crate::RepoName>().unwrap_err();
        let tag = ".".parse::<crate::Tag>().unwrap_err();
        let digest = "sha256:0".parse::<crate::Reference>().unwrap_err();
        assert_eq!(code(name.into()), ErrorCode::NameInvalid);
        assert_eq!(code(tag.into()), ErrorCode::TagInvalid);
        assert_eq!(code(digest.into()), ErrorCode::DigestInvalid);
    }

    #[test]
    fn shortening_keeps_characters_whole() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "abc…");
        assert_eq!(shortened("aéé", 2), "a…");
    }
}
