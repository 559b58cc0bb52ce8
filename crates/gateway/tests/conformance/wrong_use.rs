//! Invalid use gets a clear error and does no harm.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Client, DEADLINE, Refusal, Stack, http};

/// The request of a handshake.
pub fn handshake(host: &str, target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// A raw TCP connection.
#[derive(Debug)]
pub struct Raw(pub TcpStream);

impl Raw {
    /// Opens a WebSocket.
    pub async fn open(host: &str) -> Self {
        let mut raw = Self(TcpStream::connect(host).await.unwrap());
        raw.0.write_all(handshake(host, "/prod", "").as_bytes()).await.unwrap();
        let head = raw.until(b"\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        raw
    }

    pub async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        tokio::time::timeout(DEADLINE, self.0.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    /// Reads up to and including some bytes, or to the end.
    pub async fn until(&mut self, end: &[u8]) -> String {
        let mut bytes = Vec::new();
        let reading = async {
            while !bytes.ends_with(end) {
                match self.0.read_u8().await {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Sends some bytes and reads until the head of an answer, or the end.
pub async fn exchange(host: &str, bytes: &[u8]) -> String {
    exchange_until(host, bytes, b"\r\n\r\n").await
}

/// Sends some bytes and reads until some others.
pub async fn exchange_until(host: &str, bytes: &[u8], end: &[u8]) -> String {
    let mut raw = Raw(TcpStream::connect(host).await.unwrap());
    raw.0.write_all(bytes).await.unwrap();
    raw.until(end).await
}

fn host(stack: &Stack) -> String {
    stack.websocket.trim_start_matches("ws://").trim_end_matches("/prod").to_owned()
}

#[tokio::test]
async fn an_unknown_stage_is_403() {
    let stack = Stack::scripted().start().await;
    for path in ["/dev", "/", "/prod/", "/prod/x", "/production"] {
        let url = format!("ws://{}{path}", host(&stack));
        let Refusal { status, .. } = Client::try_connect(&url, &[]).await.expect_err("a refusal");
        assert_eq!(status, 403, "{path}");
    }
    assert_eq!(stack.state().await["invocations"]["$connect"], 0);
}

#[tokio::test]
async fn garbage_is_400_and_the_gateway_lives() {
    let stack = Stack::scripted().start().await;
    let host = host(&stack);
    for garbage in [
        "\0\x01\x02\x03\r\n\r\n",
        "hello\r\n\r\n",
        "GET /prod SMTP/1.0\r\n\r\n",
        "GET /prod HTTP/1.1\r\n: x\r\n\r\n",
    ] {
        let answer = exchange(&host, garbage.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer:?}");
    }
    for (wrong, status) in [
        (handshake(&host, "/prod", "").replace("Version: 13", "Version: 8"), "400"),
        (handshake(&host, "/prod", "").replace("Host: ", "X-Host: "), "400"),
        (handshake(&host, "/prod", "").replace("Key: AAAAAAAAAAAAAAAAAAAAAA==", "Key: short"), "400"),
        (handshake(&host, &format!("/prod?x={}", "y".repeat(5000)), ""), "414"),
        (handshake(&host, "/prod", &format!("X: {}\r\n", "y".repeat(20_000))), "431"),
        (handshake(&host, "/prod", &"X: y\r\n".repeat(200)), "431"),
    ] {
        let answer = exchange(&host, wrong.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    stack.connect().await;
}

#[tokio::test]
async fn a_request_other_than_a_handshake_gets_426_or_403() {
    let stack = Stack::scripted().start().await;
    assert_eq!(http("GET", &stack.management, &[], "").await.status, 426);
    let base = stack.management.trim_end_matches("/prod");
    for (method, path) in
        [("GET", "/"), ("POST", "/prod/connections/x"), ("GET", "/@connections/x"), ("GET", "/dev")]
    {
        let answer = http(method, &format!("{base}{path}"), &[], "").await;
        assert_eq!(
            (answer.status, answer.json()),
            (403, serde_json::json!({ "message": "Forbidden" })),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_half_open_socket_is_closed() {
    let stack = Stack::scripted().flag("--head-timeout", "0.3").start().await;
    let host = host(&stack);
    let began = Instant::now();
    for half in ["", "GET /prod HT"] {
        let mut raw = Raw(TcpStream::connect(&host).await.unwrap());
        raw.0.write_all(half.as_bytes()).await.unwrap();
        let answer = raw.until(b"\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn frames_that_break_rfc_6455_close_with_1002_or_1007() {
    let stack = Stack::scripted().start().await;
    let host = host(&stack);
    let cases: [(&[u8], u16); 4] = [
        (&[0x81, 0x02, b'h', b'i'], 1002),
        (&[0xc1, 0x82, 0, 0, 0, 0, b'h', b'i'], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0], 1002),
        (&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe], 1007),
    ];
    for (frame, code) in cases {
        let mut raw = Raw::open(&host).await;
        raw.0.write_all(frame).await.unwrap();
        let answer = raw.read(4).await;
        assert_eq!((answer[0], u16::from_be_bytes([answer[2], answer[3]])), (0x88, code), "{frame:x?}");
    }
    stack.until_state("$disconnect", |state| state["invocations"]["$disconnect"] == 4).await;
}
