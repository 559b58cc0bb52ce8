//! Outages of the backend: reported in time, and over as soon as it is back.

use std::{future::pending, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncWriteExt as _, copy, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{
    support::{Client, Stack},
    terminal::Session,
};

/// Time for a frame to fail without a timeout: at least every other one, since a busy machine may delay some.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Time for frames to work again.
const WORKS_AGAIN: Duration = Duration::from_secs(1);
/// The function waits 10 s for the backend.
const IN_TIME: Duration = Duration::from_secs(9);
/// Longer than the function waits, also if it gets no processor for a while.
const SLOW: Duration = Duration::from_secs(40);

/// What happens to a connection to the backend.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Works,
    /// Accepted, and never answered.
    Hangs,
    /// Answered after [`SLOW`].
    IsSlow,
    /// Answered with something other than HTTP.
    IsGarbage,
}

/// A proxy in front of the backend, such as a load balancer.
struct Door {
    address: SocketAddr,
    open: Option<JoinHandle<()>>,
}

impl Door {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), open: None }
    }

    /// Stops listening and closes all connections.
    async fn shut(&mut self) {
        if let Some(open) = self.open.take() {
            open.abort();
            assert!(open.await.unwrap_err().is_cancelled());
        }
    }

    /// Gives new connections these fates in turn, and closes the existing ones.
    async fn leads_to(&mut self, backend: SocketAddr, fates: &'static [Fate]) {
        self.shut().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.open = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for fate in fates.iter().cycle() {
                let (client, _) = listener.accept().await.unwrap();
                // This test does not depend on how a connection ends.
                connections.spawn(async move { drop(pass(client, backend, *fate).await) });
            }
        }));
    }
}

async fn pass(mut client: TcpStream, backend: SocketAddr, fate: Fate) -> std::io::Result<()> {
    match fate {
        Fate::Hangs => pending().await,
        Fate::IsGarbage => client.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await,
        Fate::Works => {
            copy_bidirectional(&mut client, &mut TcpStream::connect(backend).await?).await?;
            Ok(())
        }
        Fate::IsSlow => {
            let mut backend = TcpStream::connect(backend).await?;
            let ((mut asks, mut hears), (mut answers, mut is_asked)) = (client.split(), backend.split());
            let late = async {
                answers.readable().await?;
                sleep(SLOW).await;
                copy(&mut answers, &mut hears).await
            };
            tokio::try_join!(copy(&mut asks, &mut is_asked), late)?;
            Ok(())
        }
    }
}

/// Pings; returns the response and the time it took.
async fn ping(client: &mut Client) -> (Value, Duration) {
    let asked = Instant::now();
    client.send(r#"{"type":"ping","id":"p1"}"#).await;
    (client.json().await, asked.elapsed())
}

fn assert_error(answer: &Value, code: &str) {
    assert_eq!((&answer["type"], &answer["code"]), (&"error".into(), &code.into()), "{answer}");
    assert_eq!((&answer["retryable"], &answer["ref"]), (&true.into(), &"p1".into()), "{answer}");
}

async fn assert_unavailable_at_once(client: &mut Client, frames: usize) {
    let mut took = Vec::new();
    for _ in 0..frames {
        let (answer, time) = ping(client).await;
        assert_error(&answer, "BACKEND_UNAVAILABLE");
        took.push(time);
    }
    took.sort();
    assert!(took[frames / 2] < AT_ONCE, "{took:?}");
}

/// Checks recovery. Each process of the function has its own circuit breaker, so one success is not enough: after the
/// allowed time, every frame must succeed.
async fn assert_works_again(one: &mut Client, other: &mut Client) {
    // Again, for a machine too busy to connect within the function's limit of one second.
    for _ in 0..5 {
        let back = Instant::now();
        while back.elapsed() < WORKS_AGAIN {
            tokio::join!(ping(one), ping(other));
        }
        let mut failed = None;
        for _ in 0..10 {
            let ((one, _), (other, _)) = tokio::join!(ping(one), ping(other));
            failed = failed.or([one, other].into_iter().find(|answer| answer["type"] != "pong"));
        }
        let Some(failed) = failed else { return };
        println!("not yet: {failed}");
    }
    panic!("frames fail although the backend is back");
}

#[tokio::test]
async fn backend_outages_are_reported_promptly_and_recover_within_one_second() {
    let mut door = Door::new().await;
    let stack = Stack::whole().env("BACKEND_URL", &format!("http://{}", door.address)).start().await;
    let page: url::Url = stack.page.clone().unwrap().parse().unwrap();
    let backend = page.socket_addrs(|| None).unwrap()[0];
    door.leads_to(backend, &[Fate::Works]).await;
    let session = Session::new(&stack).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = stack.connect_with(&session.query()).await;
        assert_eq!(client.json().await["type"], "connected");
        clients.push(client);
    }
    let [one, other] = clients.as_mut_slice() else { unreachable!() };

    door.shut().await;
    // Often enough for every process of the function to open its circuit breaker.
    assert_unavailable_at_once(one, 20).await;
    door.leads_to(backend, &[Fate::Works]).await;
    assert_works_again(one, other).await;

    door.leads_to(backend, &[Fate::IsGarbage]).await;
    assert_unavailable_at_once(one, 5).await;
    door.leads_to(backend, &[Fate::Works]).await;
    assert_works_again(one, other).await;

    door.leads_to(backend, &[Fate::Hangs, Fate::IsSlow]).await;
    for (answer, took) in <[_; 2]>::from(tokio::join!(ping(one), ping(other))) {
        assert_error(&answer, "BACKEND_TIMEOUT");
        assert!(took > IN_TIME, "hung or slow: {took:?}");
    }
    door.leads_to(backend, &[Fate::Works]).await;
    assert_works_again(one, other).await;
    let state = stack.state().await;
    assert_eq!((&state["connections"], &state["cuts"]), (&2.into(), &0.into()), "both live on");
}
