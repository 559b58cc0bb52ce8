//! A Lambda Runtime API for one process.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot, watch},
};

#[derive(Clone)]
pub struct RuntimeApi {
    /// Value of `AWS_LAMBDA_RUNTIME_API`.
    pub address: String,
    events: mpsc::UnboundedSender<(String, Value)>,
    waiting: Arc<Mutex<mpsc::UnboundedReceiver<(String, Value)>>>,
    answers: Arc<Mutex<HashMap<String, oneshot::Sender<Value>>>>,
    /// Number of requests for the next event.
    pub polls: Arc<watch::Sender<usize>>,
}

impl RuntimeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (events, waiting) = mpsc::unbounded_channel();
        let api = Self {
            address: listener.local_addr().unwrap().to_string(),
            events,
            waiting: Arc::new(Mutex::new(waiting)),
            answers: Arc::default(),
            polls: Arc::new(watch::Sender::new(0)),
        };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .with_state(api.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        api
    }

    /// Passes an event to the process and returns the response.
    pub async fn invoke(&self, event: Value) -> Value {
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, answer) = oneshot::channel();
        self.answers.lock().await.insert(id.clone(), sender);
        self.events.send((id, event)).unwrap();
        tokio::time::timeout(Duration::from_secs(20), answer).await.expect("the process answers").unwrap()
    }

    /// Waits until the process requests its first event.
    pub async fn ready(&self) {
        self.polls.subscribe().wait_for(|polls| *polls > 0).await.unwrap();
    }
}

async fn next(State(api): State<RuntimeApi>) -> Response {
    api.polls.send_modify(|polls| *polls += 1);
    let (id, event) = api.waiting.lock().await.recv().await.unwrap();
    let deadline = std::time::SystemTime::now() + Duration::from_secs(15);
    let deadline = deadline.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let headers = [
        ("Lambda-Runtime-Aws-Request-Id", id),
        ("Lambda-Runtime-Deadline-Ms", deadline.to_string()),
        (
            "Lambda-Runtime-Invoked-Function-Arn",
            "arn:aws:lambda:us-east-1:123456789012:function:f".to_owned(),
        ),
        ("Lambda-Runtime-Trace-Id", "Root=1-2-3".to_owned()),
    ];
    (headers, event.to_string()).into_response()
}

async fn answer(
    State(api): State<RuntimeApi>,
    Path((id, kind)): Path<(String, String)>,
    body: Bytes,
) -> StatusCode {
    assert_eq!(kind, "response", "the function failed: {}", String::from_utf8_lossy(&body));
    let answer = serde_json::from_slice(&body).unwrap();
    if let Some(sender) = api.answers.lock().await.remove(&id) {
        let _ = sender.send(answer);
    }
    StatusCode::ACCEPTED
}
