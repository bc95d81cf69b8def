//! Registry errors: the codes of the distribution specification, their status, the JSON body.

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
    pub status: Option<http::StatusCode>,
}

impl RegistryError {
    /// An error of that code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            status: None,
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
    pub fn with_status(mut self, status: http::StatusCode) -> Self {
        self.status = Some(status);
        self
    }
    /// The status it is answered with.
    pub fn status(&self) -> http::StatusCode {
        todo!()
    }
}

impl axum::response::IntoResponse for RegistryError {
    fn into_response(self) -> axum::response::Response {
        todo!()
    }
}
