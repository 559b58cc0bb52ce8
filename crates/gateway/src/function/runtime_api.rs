//! The Lambda Runtime API. Each process has its own listener, which identifies it.
//!
//! Source: Lambda Developer Guide, *runtimes-api*.

use std::{io, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::net::TcpListener;
use tracing::warn;

use super::{FunctionError, pool::Pool};
use crate::{
    http1::{self, response},
    id,
};

/// Largest response of a function (Lambda quotas: 6 MB for synchronous invocations).
const MAX_RESPONSE: usize = 6 * 1024 * 1024;
const INVOCATION: &str = "/2018-06-01/runtime/invocation/";

/// Serves the API to one process until dropped.
pub(super) async fn serve(listener: TcpListener, pool: Arc<Pool>, index: usize) -> io::Result<()> {
    http1::serve(listener, move |request| {
        let pool = Arc::clone(&pool);
        async move { handle(&pool, index, request).await }
    })
    .await;
    Ok(())
}

async fn handle(pool: &Arc<Pool>, index: usize, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if request.method() == Method::GET && path.strip_prefix(INVOCATION) == Some("next") {
        return next(pool, index).await;
    }
    if request.method() != Method::POST {
        return error(StatusCode::NOT_FOUND, "unknown operation");
    }
    if path == "/2018-06-01/runtime/init/error" {
        let cause = read(request).await.map_or_else(|error| error, |body| describe(&body));
        warn!(process = index, cause, "the function failed to initialise");
        return accepted();
    }
    let operation = path.strip_prefix(INVOCATION).and_then(|rest| rest.split_once('/'));
    let Some((request_id, failed)) = operation.and_then(|(id, verb)| match verb {
        "response" => Some((id.to_owned(), false)),
        "error" => Some((id.to_owned(), true)),
        _ => None,
    }) else {
        return error(StatusCode::NOT_FOUND, "unknown operation");
    };
    let result = match read(request).await {
        Ok(body) if failed => Err(FunctionError::Unhandled(describe(&body))),
        Ok(body) => Ok(body),
        Err(cause) => {
            pool.answer(index, &request_id, Err(FunctionError::Unhandled(cause.clone())));
            return error(StatusCode::PAYLOAD_TOO_LARGE, &cause);
        }
    };
    if pool.answer(index, &request_id, result) {
        accepted()
    } else {
        error(StatusCode::BAD_REQUEST, "Invalid request ID")
    }
}

async fn next(pool: &Arc<Pool>, index: usize) -> Response<Full<Bytes>> {
    let Some(next) = pool.next(index).await else {
        return error(StatusCode::GONE, "replaced by another request for the next event");
    };
    let settings = &pool.settings;
    let response = Response::builder()
        .header("Content-Type", "application/json")
        .header("Lambda-Runtime-Aws-Request-Id", next.request_id)
        .header("Lambda-Runtime-Deadline-Ms", next.deadline.0)
        .header("Lambda-Runtime-Trace-Id", id::trace_root() + ";Sampled=0")
        .header(
            "Lambda-Runtime-Invoked-Function-Arn",
            format!("arn:aws:lambda:{}:000000000000:function:{}", settings.region, settings.name),
        )
        .body(Full::new(next.event));
    response.unwrap_or_else(|_| {
        error(StatusCode::INTERNAL_SERVER_ERROR, "the function's name is not a valid header value")
    })
}

async fn read(request: Request<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(request.into_body(), MAX_RESPONSE).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

/// Formats an error document as `errorType: errorMessage`.
fn describe(body: &[u8]) -> String {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name| document.get(name).and_then(Value::as_str).unwrap_or("?");
    format!("{}: {}", field("errorType"), field("errorMessage"))
}

fn accepted() -> Response<Full<Bytes>> {
    response(StatusCode::ACCEPTED, &[("content-type", "application/json")], r#"{"status":"OK"}"#)
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "errorType": "InvalidRequest", "errorMessage": message }).to_string();
    response(status, &[("content-type", "application/json")], body)
}
