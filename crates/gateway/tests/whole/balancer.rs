//! The stand-in's load balancer, over backends that only say their name.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Either;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use shellbridge_gateway::{
    balancer::Balancer,
    counters::Counters,
    faults::{FaultSettings, Faults},
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket},
    task::{JoinHandle, JoinSet},
};

use super::support::{Answer, http, until};

/// A backend that answers with its name, or with the body it got.
struct Backend {
    address: SocketAddr,
    serves: Option<JoinHandle<()>>,
    asked: Arc<AtomicUsize>,
}

impl Backend {
    fn new(name: &'static str) -> Self {
        let mut backend = Self { address: ([127, 0, 0, 1], 0).into(), serves: None, asked: Arc::default() };
        backend.start(name);
        backend
    }

    fn start(&mut self, name: &'static str) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(64).unwrap();
        self.address = listener.local_addr().unwrap();
        let asked = Arc::clone(&self.asked);
        self.serves = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let asked = Arc::clone(&asked);
                let service = service_fn(move |request: Request<Incoming>| {
                    let is_health = request.uri().path() == "/health";
                    asked.fetch_add(usize::from(!is_health), Relaxed);
                    let body = match request.uri().path() {
                        "/echo" => Either::Left(request.into_body()),
                        _ => Either::Right(http_body_util::Full::new(Bytes::from(name))),
                    };
                    let answer = Response::builder().header("x-shellbridge-hop", "0").body(body);
                    async { answer }
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        }));
    }

    /// Closes the listener and all connections.
    async fn stop(&mut self) {
        let serves = self.serves.take().unwrap();
        serves.abort();
        assert!(serves.await.unwrap_err().is_cancelled());
    }

    fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// A balancer over these; its URL, without a trailing slash.
async fn over(targets: &[SocketAddr]) -> (String, Arc<Counters>, Arc<Faults>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counters = Arc::<Counters>::default();
    let faults = Arc::new(Faults::new(FaultSettings::default(), targets.len()));
    let balancer = Balancer::new(targets, Arc::clone(&counters), Arc::clone(&faults));
    tokio::spawn(Arc::new(balancer).serve(listener));
    (url, counters, faults)
}

/// `AWSALB=…; AWSALBCORS=…`, as a client sends them back.
fn cookie(answer: &Answer) -> String {
    let set = answer.headers.get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
    let pairs: Vec<_> = set.map(|cookie| cookie.split(';').next().unwrap()).collect();
    assert!(pairs[0].starts_with("AWSALB=") && pairs[1].starts_with("AWSALBCORS="), "{pairs:?}");
    pairs.join("; ")
}

fn name(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200);
    std::str::from_utf8(&answer.body).unwrap()
}

#[tokio::test]
async fn requests_go_round_robin_and_are_counted_with_their_hops() {
    let backends = [Backend::new("a"), Backend::new("b"), Backend::new("c")];
    let (url, counters, _) = over(&backends.each_ref().map(|backend| backend.address)).await;
    for _ in 0..9 {
        name(&http("POST", &format!("{url}/api/ws/message"), &[], "{}").await);
    }
    assert_eq!(backends.each_ref().map(Backend::asked), [3, 3, 3]);
    let state = serde_json::to_value(counters.snapshot(0)).unwrap();
    assert_eq!(state["instances"], serde_json::json!({"0": 3, "1": 3, "2": 3}));
    assert_eq!(state["hops"], serde_json::json!({"0": 9}));
}

#[tokio::test]
async fn a_cookie_sticks_while_its_target_is_healthy() {
    let mut backends = [Backend::new("a"), Backend::new("b"), Backend::new("c")];
    let (url, _, faults) = over(&backends.each_ref().map(|backend| backend.address)).await;
    let first = http("GET", &url, &[], "").await;
    let (mut sticky, first) = (cookie(&first), name(&first).to_owned());
    let names = ["a", "b", "c"];
    let index = names.iter().position(|name| *name == first).unwrap();
    for method in ["GET", "POST", "GET", "POST"] {
        let answer = http(method, &url, &[("cookie", &format!("other=1; {sticky}"))], "x").await;
        assert_eq!((name(&answer), &cookie(&answer)), (first.as_str(), &sticky));
    }
    backends[index].stop().await;
    let answer = http("POST", &url, &[("cookie", &sticky)], "x").await;
    assert_ne!(name(&answer), first);
    assert_ne!(cookie(&answer), sticky, "the answer's own target");
    // Only its health brings it back: until then the old cookie leads to the others.
    backends[index].start(names[index]);
    until("the target's return", || async {
        let answer = http("GET", &url, &[("cookie", &sticky)], "").await;
        (name(&answer) == first).then_some(())
    })
    .await;
    // A fault ignores it, and a cookie of another stack names none.
    faults.replace(FaultSettings { spread_requests: true, ..Default::default() }, false);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        seen.insert(name(&http("GET", &url, &[("cookie", &sticky)], "").await).to_owned());
    }
    assert_eq!(seen.len(), 3);
    faults.replace(FaultSettings::default(), false);
    sticky = "AWSALB=6f0c3a51; AWSALBCORS=6f0c3a51".to_owned();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        seen.insert(name(&http("GET", &url, &[("cookie", &sticky)], "").await).to_owned());
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_target_that_refuses_connections_costs_no_request() {
    let mut gone = Backend::new("gone");
    gone.stop().await;
    let alive = Backend::new("alive");
    let (url, ..) = over(&[gone.address, alive.address]).await;
    for method in ["GET", "POST", "GET", "POST"] {
        let answer = http(method, &format!("{url}/echo"), &[], "body").await;
        assert_eq!((answer.status, &*answer.body), (200, &b"body"[..]));
    }
    assert_eq!(alive.asked(), 4);
    let (url, ..) = over(&[gone.address]).await;
    assert_eq!(http("POST", &url, &[], "x").await.status, 502, "no target is left");
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_repeated() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let breaks = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _some = stream.read(&mut [0; 1024]).await;
        }
    });
    let works = Backend::new("works");
    let (url, ..) = over(&[breaks, works.address]).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(http("POST", &url, &[], "x").await.status);
    }
    statuses.sort_unstable();
    assert_eq!((statuses, works.asked()), (vec![200, 502], 1));
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let backend = Backend::new("a");
    let (url, ..) = over(&[backend.address]).await;
    let bytes: Vec<u8> =
        (0..24_000_000_u32).map(|n| n.to_le_bytes()[usize::try_from(n % 3).unwrap()]).collect();
    let answer = http("POST", &format!("{url}/echo"), &[], bytes.clone()).await;
    assert!(answer.status == 200 && answer.body == bytes, "{} bytes came back", answer.body.len());
}
