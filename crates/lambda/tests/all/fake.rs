//! An HTTP server that records requests and sends prepared responses.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderName, Method, Uri},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

/// A recorded request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Handler = Arc<dyn Fn(&Request) -> (u16, String) + Send + Sync>;

/// The server. It stops with the test's runtime.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Responses to the next requests; then `otherwise` applies.
    next: Arc<Mutex<VecDeque<(u16, String)>>>,
    otherwise: Arc<Mutex<Handler>>,
    /// Headers of every response.
    headers: Arc<Mutex<HeaderMap>>,
}

impl Fake {
    pub async fn start(otherwise: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), otherwise)
    }

    pub fn start_on(
        listener: TcpListener,
        otherwise: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let fake = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            requests: Arc::default(),
            next: Arc::default(),
            otherwise: Arc::new(Mutex::new(Arc::new(otherwise))),
            headers: Arc::default(),
        };
        let state = fake.clone();
        let handler = async move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            state.respond(Request { method, path: uri.path().to_owned(), headers, body })
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        fake
    }

    fn respond(&self, request: Request) -> Response {
        let next = self.next.lock().unwrap().pop_front();
        let otherwise = self.otherwise.lock().unwrap().clone();
        let (status, body) = next.unwrap_or_else(|| otherwise(&request));
        self.requests.lock().unwrap().push(request);
        let headers = self.headers.lock().unwrap().clone();
        (axum::http::StatusCode::from_u16(status).unwrap(), headers, body).into_response()
    }

    /// Queues responses to the next requests.
    pub fn next(&self, responses: impl IntoIterator<Item = (u16, &'static str)>) {
        let responses = responses.into_iter().map(|(status, body)| (status, body.to_owned()));
        self.next.lock().unwrap().extend(responses);
    }

    /// Responds to all other requests from now on.
    pub fn always(&self, handler: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) {
        *self.otherwise.lock().unwrap() = Arc::new(handler);
    }

    /// Adds these headers to all responses from now on, instead of others.
    pub fn headers(&self, headers: &[(&'static str, &str)]) {
        let pairs =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut all = HeaderMap::new();
        for (name, value) in pairs {
            all.append(name, value);
        }
        *self.headers.lock().unwrap() = all;
    }

    /// Takes the requests recorded so far.
    pub fn taken(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}
