//! Requests that change how this process runs: small JSON, from this host alone.

use std::net::SocketAddr;

use axum::body::to_bytes;
use axum::extract::Request;
use http::StatusCode;
use serde::de::DeserializeOwned;

use super::caller;
use crate::error::{ErrorCode, RegistryError};

/// What may be sent and received a second.
pub const LIMITS_PATH: &str = "/limits";

/// More is no setting.
const MAX_BODY: usize = 4096;

/// Whose limits a path means: `Some(None)` is the whole process, `None` is no path of limits.
pub fn limits_path(path: &str) -> Option<Option<&str>> {
    match path.strip_prefix(LIMITS_PATH)? {
        "" | "/" => Some(None),
        rest => rest.strip_prefix('/').map(Some),
    }
}

/// Reads what an operator wants, if it is one who asks: over loopback, or from the very address
/// that is listened on, which only this host has.
pub async fn operator_wish<T: DeserializeOwned>(
    request: Request,
    listening: SocketAddr,
) -> Result<T, RegistryError> {
    let asks = caller(&request).addr.map(|addr| addr.ip().to_canonical());
    let own = listening.ip().to_canonical();
    if !asks.is_some_and(|asks| asks.is_loopback() || asks == own) {
        let message = "limits are changed from the host itself";
        return Err(RegistryError::new(ErrorCode::Denied, message));
    }
    let invalid = |why: String| {
        RegistryError::new(ErrorCode::Unsupported, why).with_status(StatusCode::BAD_REQUEST)
    };
    let body = to_bytes(request.into_body(), MAX_BODY).await;
    let body = body.map_err(|error| invalid(format!("the body cannot be read: {error}")))?;
    serde_json::from_slice(&body)
        .map_err(|error| invalid(format!("the body is no change: {error}")))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Wish {
        rate: u64,
    }

    async fn wish(from: Option<&str>, body: impl Into<Body>) -> Result<u64, StatusCode> {
        let mut request = Request::new(body.into());
        if let Some(addr) = from {
            let addr: SocketAddr = addr.parse().unwrap();
            request.extensions_mut().insert(addr);
        }
        let own = SocketAddr::from(([10, 0, 0, 7], 15002));
        let read = operator_wish::<Wish>(request, own).await;
        read.map(|wish| wish.rate).map_err(|error| error.status())
    }

    #[test]
    fn paths_of_limits_are_told_from_others() {
        assert_eq!(limits_path("/limits"), Some(None));
        assert_eq!(limits_path("/limits/"), Some(None));
        assert_eq!(limits_path("/limits/sha256:ab"), Some(Some("sha256:ab")));
        for other in ["/limit", "/limitss", "/status", "/v2/limits"] {
            assert_eq!(limits_path(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn only_this_host_changes_it() {
        let json = r#"{"rate":7}"#;
        for ours in [
            "127.0.0.1:9",
            "127.8.8.8:9",
            "[::1]:9",
            "10.0.0.7:9",
            "[::ffff:127.0.0.1]:9",
        ] {
            assert_eq!(wish(Some(ours), json).await, Ok(7), "{ours}");
        }
        for other in ["10.0.0.1:9", "[fe80::1]:9", "[::ffff:10.0.0.1]:9"] {
            assert_eq!(
                wish(Some(other), json).await,
                Err(StatusCode::FORBIDDEN),
                "{other}"
            );
        }
        assert_eq!(wish(None, json).await, Err(StatusCode::FORBIDDEN));
    }

    #[tokio::test]
    async fn what_is_no_change_is_told_so() {
        for body in ["", "7", r#"{"rate":-7}"#, "{"] {
            assert_eq!(
                wish(Some("[::1]:9"), body).await,
                Err(StatusCode::BAD_REQUEST),
                "{body}"
            );
        }
        let long = vec![b' '; MAX_BODY + 1];
        assert_eq!(
            wish(Some("[::1]:9"), long).await,
            Err(StatusCode::BAD_REQUEST)
        );
    }
}
