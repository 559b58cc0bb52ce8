//! A WebSocket client with a timeout on every wait.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, Utf8Bytes, client::IntoClientRequest as _},
};

use crate::tls;

/// Timeout of a handshake or message: longer than the gateway's deadline for an invocation.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// A TCP connection with or without TLS.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// An open WebSocket.
pub struct Socket(WebSocketStream<Box<dyn Io>>);

impl Socket {
    /// Connects to a `ws:` or `wss:` URL. `insecure` accepts any certificate.
    pub async fn connect(url: &str, insecure: bool) -> anyhow::Result<Self> {
        Self::offering(url, insecure, None).await
    }

    /// Connects and offers a subprotocol.
    pub async fn offering(url: &str, insecure: bool, subprotocol: Option<&str>) -> anyhow::Result<Self> {
        timeout(DEADLINE, open(url, insecure, subprotocol)).await.context("the handshake timed out")?
    }

    /// Sends one text message.
    pub async fn send(&mut self, text: impl Into<Utf8Bytes>) -> anyhow::Result<()> {
        timeout(DEADLINE, self.0.send(Message::Text(text.into()))).await.context("cannot send")??;
        Ok(())
    }

    /// Sends one binary message.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> anyhow::Result<()> {
        timeout(DEADLINE, self.0.send(Message::Binary(bytes.into()))).await.context("cannot send")??;
        Ok(())
    }

    /// The next message that is text or binary.
    pub async fn next(&mut self) -> anyhow::Result<Message> {
        loop {
            match timeout(DEADLINE, self.0.next()).await.context("no message in time")? {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return Ok(message),
                Some(Ok(Message::Close(frame))) => bail!("closed by the other side: {frame:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the connection ended"),
            }
        }
    }

    /// The next text message.
    pub async fn text(&mut self) -> anyhow::Result<Utf8Bytes> {
        loop {
            if let Message::Text(text) = self.next().await? {
                return Ok(text);
            }
        }
    }

    /// Closes the connection with a close frame.
    pub async fn close(mut self) {
        let _gone = timeout(DEADLINE, self.0.close(None)).await;
    }
}

async fn open(url: &str, insecure: bool, subprotocol: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = url.into_client_request().context("the URL")?;
    if let Some(name) = subprotocol {
        request.headers_mut().insert("sec-websocket-protocol", name.parse()?);
    }
    let host = request.uri().host().context("no host in the URL")?.trim_matches(['[', ']']).to_owned();
    let secure = request.uri().scheme_str() == Some("wss");
    let port = request.uri().port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await.with_context(|| format!("{host}:{port}"))?;
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Io> = if secure {
        let name = ServerName::try_from(host)?;
        Box::new(tls::connector(insecure)?.connect(name, tcp).await.context("TLS")?)
    } else {
        Box::new(tcp)
    };
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(Socket(socket)),
        Err(Error::Http(response)) => {
            let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
            bail!("the handshake was rejected with {} {body}", response.status())
        }
        Err(error) => Err(error.into()),
    }
}
