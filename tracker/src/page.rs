//! The page for people at `/`: three embedded files that draw the JSON API. Nothing is fetched
//! from anywhere else, and the policy sent with it forbids that anything could be.

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's routes.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let html = || file("text/html; charset=utf-8", include_str!("page/index.html"));
    let css = || file("text/css; charset=utf-8", include_str!("page/page.css"));
    let js = || {
        file(
            "text/javascript; charset=utf-8",
            include_str!("page/page.js"),
        )
    };
    Router::new()
        .route("/", get(async move || html()))
        .route("/page.css", get(async move || css()))
        .route("/page.js", get(async move || js()))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    /// What clients chose reaches the page as text only, and nothing comes from elsewhere.
    #[test]
    fn the_page_makes_no_markup_of_text_and_asks_nobody_else() {
        let files = [
            include_str!("page/index.html"),
            include_str!("page/page.css"),
            include_str!("page/page.js"),
        ];
        for text in files {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
            ] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
            assert!(
                !text.contains("//cdn") && !text.contains("http://") && !text.contains("https://")
            );
        }
    }
}
