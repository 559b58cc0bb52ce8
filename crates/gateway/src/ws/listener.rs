//! Accepting connections and finding out what each wants: a WebSocket, `@connections`, or nothing sensible.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::{
    connection, handshake,
    head::{Head, HeadError},
    socket::{Prefixed, Socket},
};
use crate::{gateway::Gateway, http1, management};

/// First byte of a TLS connection: a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// What is read and thrown away of a client that was refused, so that the answer is not lost to a reset.
const DRAIN: (Duration, usize) = (Duration::from_secs(5), 1024 * 1024);

/// Serves the API on a listener until dropped.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, peer) = http1::accept(&listener).await;
        let (gateway, tls) = (Arc::clone(&gateway), tls.clone());
        tokio::spawn(async move {
            // The handshake's state is large and short-lived; an idle connection shall not carry it.
            let opened = Box::pin(open(&gateway, stream, peer, tls)).await;
            if let Some((stream, connection)) = opened {
                connection::run(&gateway, stream, connection).await;
            }
        });
    }
}

type Opened = (tokio_tungstenite::WebSocketStream<Socket>, Arc<connection::Connection>);

async fn open(
    gateway: &Arc<Gateway>,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Option<Opened> {
    let within = gateway.limits.head_timeout;
    let mut socket = match tls {
        Some(acceptor) if starts_with_tls(&stream, within).await => {
            match tokio::time::timeout(within, acceptor.accept(stream)).await.ok()? {
                Ok(stream) => Socket::Tls(Box::new(stream)),
                Err(error) => {
                    debug!(%peer, %error, "TLS handshake");
                    return None;
                }
            }
        }
        _ => Socket::Plain(stream),
    };
    let mut buffer = BytesMut::new();
    let head = match Head::read(&mut socket, &mut buffer, within).await {
        Ok(head) => head,
        Err(error) => {
            debug!(%peer, ?error, "no request");
            let status = match error {
                HeadError::Gone => return None,
                HeadError::TimedOut => "408 Request Timeout",
                HeadError::TooLarge => "431 Request Header Fields Too Large",
                HeadError::Malformed => "400 Bad Request",
            };
            let response = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            answer_and_close(&mut socket, response.as_bytes()).await;
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

async fn starts_with_tls(stream: &TcpStream, within: Duration) -> bool {
    let mut first = [0];
    let peeked = tokio::time::timeout(within, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(1))) && first == [TLS_HANDSHAKE]
}

/// Writes a last answer and waits until the client has closed.
pub(super) async fn answer_and_close(socket: &mut Socket, response: &[u8]) {
    let (within, most) = DRAIN;
    let closing = async {
        socket.write_all(response).await?;
        drain(socket, most).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(within, closing).await {
        debug!(%error, "closing a connection");
    }
}

/// Closes the sending half and reads, up to a bound, until the client closed too.
pub(super) async fn drain(socket: &mut Socket, most: usize) -> std::io::Result<()> {
    socket.shutdown().await?;
    let mut buffer = [0; 1024];
    let mut read = 0;
    while read < most {
        match socket.read(&mut buffer).await? {
            0 => break,
            length => read += length,
        }
    }
    Ok(())
}
