//! The console: one page, its script and its style, embedded by the build.

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/index.html"));
const SCRIPT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/console.js"));
const STYLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/console.css"));

/// `/` lists what is live, `/watch/application/name` plays it.
pub fn router() -> Router {
    Router::new()
        .route("/", get(|| file(PAGE, "text/html; charset=utf-8")))
        .route("/watch/{app}/{name}", get(|| file(PAGE, "text/html; charset=utf-8")))
        .route("/assets/console.js", get(|| file(SCRIPT, "text/javascript; charset=utf-8")))
        .route("/assets/console.css", get(|| file(STYLE, "text/css; charset=utf-8")))
}

async fn file(bytes: &'static [u8], content_type: &'static str) -> Response {
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static(content_type)), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    (headers, bytes).into_response()
}
