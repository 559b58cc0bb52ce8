//! Accepts TCP connections and tells WebSocket handshakes from requests for `@connections`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::{
    connection::Connection,
    driver, handshake,
    head::{Head, HeadError},
    socket::{Prefixed, Socket},
};
use crate::{gateway::Gateway, http1, management};

/// First byte of a TLS connection: a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves the API on a listener until dropped.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, peer) = http1::accept(&listener).await;
        let (gateway, tls) = (Arc::clone(&gateway), tls.clone());
        tokio::spawn(async move {
            // The handshake's future is large and short-lived; boxed, it takes no memory of idle connections.
            let opened = Box::pin(open(&gateway, stream, peer, tls)).await;
            if let Some((stream, connection)) = opened {
                driver::run(&gateway, stream, connection).await;
            }
        });
    }
}

type Opened = (tokio_tungstenite::WebSocketStream<Socket>, Arc<Connection>);

async fn open(
    gateway: &Arc<Gateway>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Option<Opened> {
    let timeout = gateway.limits.head_timeout;
    let mut socket = match tls {
        Some(acceptor) if starts_with_tls(&stream, timeout).await => {
            match tokio::time::timeout(timeout, acceptor.accept(stream)).await.ok()? {
                Ok(stream) => Socket::Tls(Box::new(stream)),
                Err(error) => {
                    debug!(%peer, %error, "TLS handshake failed");
                    return None;
                }
            }
        }
        _ => Socket::Plain(stream),
    };
    let mut buffer = BytesMut::new();
    let head = match Head::read(&mut socket, &mut buffer, timeout).await {
        Ok(head) => head,
        Err(error) => {
            debug!(%peer, ?error, "cannot read a request");
            let status = match error {
                HeadError::Gone => return None,
                HeadError::TimedOut => "408 Request Timeout",
                HeadError::TooLarge => "431 Request Header Fields Too Large",
                HeadError::Malformed => "400 Bad Request",
            };
            let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            socket.respond_and_close(response.as_bytes()).await;
            return None;
        }
    };
    if head.is_upgrade() {
        let rest = buffer.split_off(head.length);
        drop(buffer);
        return handshake::accept(gateway, socket, head, rest, peer).await;
    }
    let gateway = Arc::clone(gateway);
    http1::serve_connection(Prefixed { prefix: buffer, socket }, move |request| {
        let gateway = Arc::clone(&gateway);
        async move { management::handle(&gateway, request).await }
    })
    .await;
    None
}

async fn starts_with_tls(stream: &TcpStream, timeout: Duration) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(timeout, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first == [TLS_HANDSHAKE]
}
