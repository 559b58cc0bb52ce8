//! The opening handshake: it waits for `$connect` and passes its status through.
//!
//! Source: README.md, section 2. Choices where AWS's behaviour is unconfirmed: a throttled function gives 500; a path
//! below the stage or a slash after it gives 403; the gateway's own refusals have no body, and the function's body goes
//! with its status where `$connect` has a route response, as on other routes (serverless-offline#1301).

use std::{net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::{debug, info};
use url::form_urlencoded;

use super::{connection::Connection, head::Head, socket::Socket};
use crate::{
    clock,
    event::{self, Pairs, Peer},
    function::FunctionError,
    gateway::Gateway,
    id,
    reply::Reply,
};

/// Longest request target (quotas: "WebSocket URL 4,096 characters").
const MAX_TARGET: usize = 4096;
/// Size of tungstenite's reads. Its default of 128 KiB would be allocated for every connection.
const READ_BUFFER: usize = 4 * 1024;
/// Size up to which small messages are gathered before they are written.
const WRITE_BUFFER: usize = 16 * 1024;

/// Answers a handshake. Returns the connection if the 101 was written.
pub(super) async fn accept(
    gateway: &Arc<Gateway>,
    mut socket: Socket,
    head: Head,
    rest: BytesMut,
    address: SocketAddr,
) -> Option<(WebSocketStream<Socket>, Arc<Connection>)> {
    let request_id = id::random_id();
    let outcome = negotiate(gateway, &socket, &head, address, &request_id).await;
    let (connection, accept_key, subprotocol) = match outcome {
        Ok(accepted) => accepted,
        Err(refusal) => {
            let status = refusal.status.as_u16();
            debug!(status, target = head.split_target().0, "refused a handshake");
            refuse(&mut socket, &refusal, &request_id).await;
            return None;
        }
    };
    let mut response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key}\r\n"
    );
    if let Some(protocol) = subprotocol {
        response.push_str("Sec-WebSocket-Protocol: ");
        response.push_str(&protocol);
        response.push_str("\r\n");
    }
    response.push_str("\r\n");
    // From here on `@connections` knows the id. Until the 101 is written, a push waits.
    gateway.connections.insert(&connection);
    // If the client is gone, the first read fails, and `$disconnect` follows.
    if let Err(error) = write(&mut socket, response.as_bytes()).await {
        debug!(%error, "the client left during the handshake");
    }
    connection.set_open();
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_frame_size(Some(gateway.limits.max_frame))
        .max_message_size(Some(gateway.limits.max_message));
    let stream = WebSocketStream::from_partially_read(socket, rest.into(), Role::Server, Some(config)).await;
    Some((stream, connection))
}

type Accepted = (Arc<Connection>, String, Option<String>);

/// How a handshake ends that is not accepted.
struct Refusal {
    status: StatusCode,
    body: String,
}

impl From<StatusCode> for Refusal {
    fn from(status: StatusCode) -> Self {
        Self { status, body: String::new() }
    }
}

async fn negotiate(
    gateway: &Arc<Gateway>,
    socket: &Socket,
    head: &Head,
    address: SocketAddr,
    request_id: &str,
) -> Result<Accepted, Refusal> {
    let (path, query) = head.split_target();
    if gateway.tls && matches!(socket, Socket::Plain(_)) {
        return Err(StatusCode::BAD_REQUEST.into());
    }
    let host = head.header("host").ok_or(StatusCode::BAD_REQUEST)?;
    if !gateway.serves_host(host) || path.strip_prefix('/') != Some(gateway.api.stage.as_str()) {
        return Err(StatusCode::FORBIDDEN.into());
    }
    if head.target.len() > MAX_TARGET {
        return Err(StatusCode::URI_TOO_LONG.into());
    }
    let key =
        head.header("sec-websocket-key").filter(|key| key.len() == 24).ok_or(StatusCode::BAD_REQUEST)?;
    if head.header("sec-websocket-version") != Some("13") {
        return Err(StatusCode::BAD_REQUEST.into());
    }
    if !gateway.rates.allow_connect() {
        return Err(StatusCode::TOO_MANY_REQUESTS.into());
    }
    let peer = Peer {
        source_ip: address.ip().to_canonical().to_string(),
        user_agent: head.header("user-agent").map(str::to_owned),
        domain_name: host.to_owned(),
    };
    let id = id::random_id().into();
    let connection = Arc::new(Connection::new(id, peer, clock::unix_ms(), gateway.limits.send_buffer));
    let subprotocol = if gateway.routes.has("$connect") {
        let query: Pairs = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let headers = event_headers(head, &connection.peer.source_ip);
        let event = event::connect(connection.origin(&gateway.api), request_id, &headers, &query);
        integrate(gateway, &connection, event).await?
    } else {
        None
    };
    info!(connection_id = %connection.id, "connected");
    Ok((connection, derive_accept_key(key.as_bytes()), subprotocol))
}

/// Runs the `$connect` integration and returns the subprotocol, which only the function chooses.
async fn integrate(
    gateway: &Gateway,
    connection: &Connection,
    event: bytes::Bytes,
) -> Result<Option<String>, Refusal> {
    gateway.counters.invocations.increment("$connect");
    let answer =
        tokio::time::timeout(gateway.limits.integration_timeout, gateway.function.invoke(event)).await;
    let payload = match answer {
        Err(_) => return Err(StatusCode::GATEWAY_TIMEOUT.into()),
        Ok(Err(error)) => {
            info!(connection_id = %connection.id, %error, "$connect failed");
            let status = match error {
                FunctionError::Throttled => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_GATEWAY,
            };
            return Err(status.into());
        }
        Ok(Ok(payload)) => payload,
    };
    let Some(reply) = Reply::parse(&payload) else {
        info!(connection_id = %connection.id, "$connect answered without a statusCode");
        return Err(StatusCode::BAD_GATEWAY.into());
    };
    if !reply.accepts() {
        let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let body = reply.body.filter(|_| gateway.routes.responds("$connect")).unwrap_or_default();
        return Err(Refusal { status, body });
    }
    // A control character would split the response.
    match reply.subprotocol {
        Some(protocol) if protocol.bytes().any(|byte| byte.is_ascii_control()) => {
            Err(StatusCode::BAD_GATEWAY.into())
        }
        protocol => Ok(protocol),
    }
}

/// The client's headers and those that a load balancer adds, sorted by name as in the captures.
fn event_headers(head: &Head, source_ip: &str) -> Pairs {
    // Developer Guide: authorizers get these, the `$connect` proxy event does not.
    const OMITTED: [&str; 4] = ["connection", "upgrade", "content-length", "x-forwarded-for"];
    let mut headers: Pairs = head
        .headers
        .iter()
        .filter(|(name, _)| !OMITTED.iter().any(|omitted| name.eq_ignore_ascii_case(omitted)))
        .cloned()
        .collect();
    let forwarded = match head.header("x-forwarded-for") {
        Some(before) => format!("{before}, {source_ip}"),
        None => source_ip.to_owned(),
    };
    let trace = id::trace_root();
    for (name, value) in [
        ("X-Amzn-Trace-Id", trace.as_str()),
        ("X-Forwarded-For", &forwarded),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Proto", "https"),
    ] {
        headers.push((name.to_owned(), value.to_owned()));
    }
    headers.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    headers
}

async fn refuse(socket: &mut Socket, Refusal { status, body }: &Refusal, request_id: &str) {
    let reason = status.canonical_reason().unwrap_or("Refused");
    let response = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Length: {}\r\nx-amzn-RequestId: {request_id}\r\nConnection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len()
    );
    socket.respond_and_close(response.as_bytes()).await;
}

async fn write(socket: &mut Socket, bytes: &[u8]) -> std::io::Result<()> {
    socket.write_all(bytes).await?;
    socket.flush().await
}
