//! Serves the embedded page and its Content-Security-Policy.

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::config::socket_source;

/// Any WebSocket host: without `WS_URL`, the link to the page names it and the page asks the user to confirm.
const ANY_SOCKET: &str = "ws: wss:";

/// `Content-Security-Policy`: no foreign content, and WebSockets only to the host of `ws_url`.
pub(crate) fn policy(ws_url: Option<&str>) -> HeaderValue {
    let sockets = ws_url.and_then(socket_source);
    let sockets = sockets.as_deref().unwrap_or(ANY_SOCKET);
    let policy = format!(
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self' {sockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

/// Serves a file of the page, or 404, for every path without a route.
pub(crate) async fn asset(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::NOT_FOUND.into_response();
    }
    let Some(asset) = shellbridge_web::asset(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let contains =
        |name, text: &str| headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains(text));
    let cache = if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    let about = [
        (header::CONTENT_TYPE, asset.content_type.to_owned()),
        (header::ETAG, asset.etag.clone()),
        (header::CACHE_CONTROL, cache.to_owned()),
        (header::VARY, "accept-encoding".to_owned()),
    ];
    if contains(header::IF_NONE_MATCH, &asset.etag) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    match asset.gzip {
        Some(packed) if contains(header::ACCEPT_ENCODING, "gzip") => {
            (about, [(header::CONTENT_ENCODING, "gzip")], packed).into_response()
        }
        _ => (about, asset.bytes).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_a_socket_is_its_host_alone() {
        for (address, source) in [
            (
                "wss://ab12.execute-api.eu-west-1.amazonaws.com/prod",
                "wss://ab12.execute-api.eu-west-1.amazonaws.com",
            ),
            ("wss://ws.example.org:443/", "wss://ws.example.org"),
            ("wss://WS.example.org:8443/a?b=c", "wss://ws.example.org:8443"),
            ("ws://127.0.0.1:3002/prod", "ws://127.0.0.1:3002"),
            ("ws://[::1]:3002/prod", "ws:"),
        ] {
            assert_eq!(socket_source(address).as_deref(), Some(source), "{address}");
        }
        for bad in [
            "",
            "prod",
            "https://ws.example.org",
            "wss://",
            "wss://*.example.org/",
            "wss://a;script-src/",
            "wss://a'b/",
        ] {
            assert_eq!(socket_source(bad), None, "{bad}");
        }
    }
}
