//! Deliberately slow clients: limited in time and number, without effect on others.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{ADMIN_TOKEN, Backend, Gateway, PATIENCE, Settings};

/// Longest life of an incomplete request.
const LONGEST: Duration = Duration::from_secs(15);

const HALF_HEAD: &str = "GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ";
const HALF_BODY: &str =
    "POST /api/sessions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nauthorization: Bearer ";

/// Opens a connection and sends `text`.
async fn begun(address: &str, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Sends a byte per second until the backend closes the connection; returns how long that took. A reset counts, too.
async fn trickle(mut stream: TcpStream) -> Duration {
    let started = Instant::now();
    let (mut read, mut write) = stream.split();
    let ended = async {
        let mut rest = Vec::new();
        let _reset_too = read.read_to_end(&mut rest).await;
    };
    let trickling = async {
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ended => {}
        () = trickling => {}
    }
    started.elapsed()
}

fn address(backend: &Backend) -> String {
    backend.url.strip_prefix("http://").unwrap().to_owned()
}

/// Incomplete requests used to be held forever.
#[tokio::test]
async fn regression_incomplete_requests_time_out_while_health_answers() {
    let backend = Settings::new().start().await;
    let address = address(&backend);
    let half_body = format!("{HALF_BODY}{ADMIN_TOKEN}\r\n\r\n{{\"userId\": \"");
    let mut slow = JoinSet::new();
    for n in 0..300 {
        // Incomplete heads, incomplete bodies, and silence.
        let text = [HALF_HEAD, &half_body, ""][n % 3].to_owned();
        let stream = begun(&address, &text).await;
        slow.spawn(async move {
            if text.is_empty() {
                // Sends nothing and waits.
                let (started, mut stream) = (Instant::now(), stream);
                let _reset_too = stream.read_to_end(&mut Vec::new()).await;
                return started.elapsed();
            }
            trickle(stream).await
        });
    }
    let all = timeout(PATIENCE, async {
        let mut took = Vec::new();
        loop {
            let asked = Instant::now();
            assert_eq!(backend.get("/health").send().await.unwrap().status(), 200);
            assert!(asked.elapsed() < Duration::from_secs(2), "/health took {:?}", asked.elapsed());
            tokio::select! {
                ended = slow.join_next() => match ended {
                    Some(time) => took.push(time.unwrap()),
                    None => break took,
                },
                () = sleep(Duration::from_millis(100)) => {}
            }
        }
    });
    let took = all.await.expect("all connections end");
    assert_eq!(took.len(), 300);
    let (least, most) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    assert!(*most < LONGEST, "one lasted {most:?}");
    assert!(*least > Duration::from_secs(5), "a slow client was cut after {least:?}");
    backend.counts("shellbridge_http_connections_cut_total{at=\"head\"} 200").await;
    backend.counts("shellbridge_http_connections_cut_total{at=\"body\"} 100").await;
}

/// With more connections than places, the backend closes those that have kept it waiting longest.
#[tokio::test]
async fn regression_connections_are_limited_and_health_always_answers() {
    let gateway = Gateway::start().await;
    let backend = Settings::new().descriptors(128).pushing_to(&gateway).start().await;
    backend.session("alice", "s").await;
    let address = address(&backend);
    // 64 places.
    let mut held = Vec::new();
    for n in 0..300 {
        held.push(begun(&address, HALF_HEAD).await);
        if n % 20 == 0 {
            assert_eq!(backend.get("/health").send().await.unwrap().status(), 200);
            let ping = backend.frame("s", "alice", "c", json!({"type": "ping"})).await;
            assert_eq!(ping.status(), 200, "the function is served, too");
        }
    }
    // The oldest are gone, the newest are not.
    let mut byte = [0];
    let first = timeout(PATIENCE, held.first_mut().unwrap().read(&mut byte)).await.expect("it is closed");
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    let mut last = held.pop().unwrap();
    last.write_all(b"1\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, last.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let made = backend.post("/api/sessions").bearer_auth(ADMIN_TOKEN).json(&json!({"userId": "bob"}));
    assert_eq!(made.send().await.unwrap().status(), 201, "descriptors remain for shells");
}

/// Clients that send requests and never read the answers.
#[tokio::test]
async fn unread_answers_are_bounded() {
    let backend = Settings::new().descriptors(128).start().await;
    let address = address(&backend);
    let mut deaf = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2_000);
        // Blocks at some point, because the backend stops reading.
        let _blocked = timeout(Duration::from_millis(20), stream.write_all(requests.as_bytes())).await;
        deaf.push(stream);
    }
    assert_eq!(backend.get("/health").send().await.unwrap().status(), 200);
    let status = std::fs::read_to_string(format!("/proc/{}/status", backend.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 100_000, "{kilobytes} kB for 100 clients that do not read");
}

#[tokio::test]
async fn a_connection_may_idle_longer_than_a_head_may_take() {
    let backend = Settings::new().start().await;
    let address = address(&backend);
    let ask = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = begun(&address, ask).await;
    for rest in [true, false] {
        let mut answer = Vec::new();
        while answer.last() != Some(&b'}') {
            let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap();
            assert_ne!(read.expect("it was cut"), 0, "it was closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        if rest {
            // Longer than a head may take, the sweep included.
            sleep(Duration::from_secs(13)).await;
            stream.write_all(ask.as_bytes()).await.unwrap();
        }
    }
}

/// Incomplete requests during shutdown.
#[tokio::test]
async fn incomplete_requests_do_not_delay_shutdown() {
    let backend = Settings::new().start().await;
    let address = address(&backend);
    let (_head, _silent) = (begun(&address, HALF_HEAD).await, begun(&address, "").await);
    let body = begun(&address, &format!("{HALF_BODY}{ADMIN_TOKEN}\r\n\r\n{{")).await;
    // All of them are accepted, in order.
    assert_eq!(backend.get("/health").send().await.unwrap().status(), 200);
    let started = Instant::now();
    backend.terminate();
    let (code, log) = backend.ended().await;
    assert_eq!(code, 0, "{log}");
    assert!(started.elapsed() < LONGEST, "{:?} {log}", started.elapsed());
    assert!(!log.contains("cut off"), "{log}");
    drop(body);
}
