//! A WebSocket client with a timeout on every wait.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message, Utf8Bytes,
        client::IntoClientRequest as _,
        http::{HeaderMap, HeaderName, Response},
    },
};

use super::DEADLINE;

/// A handshake that failed: its status and body.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub body: String,
}

#[derive(Debug)]
pub struct Client {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Headers of the 101.
    pub headers: HeaderMap,
}

impl Client {
    /// Connects, or returns the refusal.
    pub async fn try_connect(url: &str, headers: &[(&str, &str)]) -> Result<Self, Refusal> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let connected =
            tokio::time::timeout(DEADLINE, connect_async(request)).await.expect("a handshake in time");
        match connected {
            Ok((stream, response)) => Ok(Self { stream, headers: response.headers().clone() }),
            Err(Error::Http(response)) => Err(refusal(&response)),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url, &[]).await.unwrap()
    }

    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) {
        self.message(Message::Text(text.into())).await;
    }

    pub async fn send_json(&mut self, value: &Value) {
        self.send(value.to_string()).await;
    }

    pub async fn message(&mut self, message: Message) {
        tokio::time::timeout(DEADLINE, self.stream.send(message)).await.expect("sent in time").unwrap();
    }

    /// The next message. `Err`: the connection broke.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        tokio::time::timeout(DEADLINE, self.stream.next()).await.expect("a message in time").transpose()
    }

    /// The next text message.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Ok(Some(Message::Text(text))) => text.to_string(),
            other => panic!("expected a text message, got {other:?}"),
        }
    }

    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// Code and reason of the close frame that comes next, after any number of messages.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Ok(Some(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Ok(Some(Message::Close(None))) => return (1005, String::new()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return (1006, String::new()),
            }
        }
    }
}

fn refusal(response: &Response<Option<Vec<u8>>>) -> Refusal {
    let body = response.body().clone().unwrap_or_default();
    Refusal { status: response.status().as_u16(), body: String::from_utf8(body).unwrap() }
}
