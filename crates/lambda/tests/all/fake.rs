//! A small HTTP server that records what it is asked and answers as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, Uri},
    response::{IntoResponse, Response},
};
use tokio::net::TcpListener;

/// One request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answer = Arc<dyn Fn(&Asked) -> (u16, String) + Send + Sync>;

/// The server. It ends with the test's runtime.
#[derive(Clone)]
pub struct Fake {
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Answers to the next requests, before `otherwise` counts.
    next: Arc<Mutex<VecDeque<(u16, String)>>>,
    otherwise: Arc<Mutex<Answer>>,
}

impl Fake {
    pub async fn start(otherwise: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), otherwise)
    }

    pub fn start_on(
        listener: TcpListener,
        otherwise: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let fake = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            next: Arc::default(),
            otherwise: Arc::new(Mutex::new(Arc::new(otherwise))),
        };
        let state = fake.clone();
        let handler = async move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            state.answer(Asked { method, path: uri.path().to_owned(), headers, body })
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await.unwrap() });
        fake
    }

    fn answer(&self, asked: Asked) -> Response {
        let next = self.next.lock().unwrap().pop_front();
        let otherwise = self.otherwise.lock().unwrap().clone();
        let (status, body) = next.unwrap_or_else(|| otherwise(&asked));
        self.asked.lock().unwrap().push(asked);
        (axum::http::StatusCode::from_u16(status).unwrap(), body).into_response()
    }

    /// What the next requests are answered.
    pub fn next(&self, answers: impl IntoIterator<Item = (u16, &'static str)>) {
        let answers = answers.into_iter().map(|(status, body)| (status, body.to_owned()));
        self.next.lock().unwrap().extend(answers);
    }

    /// What all others are answered from now on.
    pub fn always(&self, answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static) {
        *self.otherwise.lock().unwrap() = Arc::new(answer);
    }

    /// All requests so far, forgotten by this.
    pub fn taken(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}
