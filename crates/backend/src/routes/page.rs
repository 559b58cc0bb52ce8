//! The page, as it was built into the program.

use axum::{
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

/// Anything that no route answers: a file of the page, or 404.
pub(crate) async fn asset(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Some(asset) = shellbridge_web::asset(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let says =
        |name, what: &str| headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(what));
    let cache = if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let about = [
        (header::CONTENT_TYPE, asset.content_type.to_owned()),
        (header::ETAG, asset.etag.clone()),
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::VARY, "accept-encoding".to_owned()),
    ];
    if says(header::IF_NONE_MATCH, &asset.etag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    match asset.gzip {
        Some(packed) if says(header::ACCEPT_ENCODING, "gzip") => {
            (about, [(header::CONTENT_ENCODING, "gzip")], packed).into_response()
        }
        _ => (about, asset.bytes).into_response(),
    }
}
