//! The head of a connection's first request. hyper would lose the case of header names, which events preserve.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::event::Pairs;

/// Largest head, bytes. API Gateway: 10,240 for all headers (quotas) and 4,096 characters of URL.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers.
const MAX_HEADERS: usize = 96;

/// A request's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    /// Path and query, as sent.
    pub(super) target: String,
    pub(super) headers: Pairs,
    /// Length of the head, bytes.
    pub(super) length: usize,
}

/// Why reading the head failed.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The client disconnected.
    Gone,
    /// The head was not complete in time.
    TimedOut,
    /// The head is too large.
    TooLarge,
    /// The head is not HTTP/1.
    Malformed,
}

impl From<io::Error> for HeadError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Head {
    /// Reads a head. It stays in the buffer, followed by whatever was read beyond it.
    pub(super) async fn read<S>(
        socket: &mut S,
        buffer: &mut BytesMut,
        timeout: Duration,
    ) -> Result<Self, HeadError>
    where
        S: AsyncRead + Unpin,
    {
        tokio::time::timeout(timeout, async {
            loop {
                buffer.reserve(1024);
                if socket.read_buf(buffer).await? == 0 {
                    return Err(HeadError::Gone);
                }
                if let Some(head) = Self::parse(buffer)? {
                    return Ok(head);
                }
                if buffer.len() >= MAX_HEAD {
                    return Err(HeadError::TooLarge);
                }
            }
        })
        .await
        .unwrap_or(Err(HeadError::TimedOut))
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>, HeadError> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(_) => return Err(HeadError::Malformed),
        };
        let headers = request
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).trim().to_owned()))
            .collect();
        Ok(Some(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            headers,
            length,
        }))
    }

    /// The first value of a header, whose name is case-insensitive.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated header contains a token. Case-insensitive.
    pub(super) fn has_token(&self, name: &str, token: &str) -> bool {
        let values = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        values.flat_map(|(_, value)| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
    }

    /// Whether this is a WebSocket handshake.
    pub(super) fn is_upgrade(&self) -> bool {
        self.method == "GET"
            && self.has_token("upgrade", "websocket")
            && self.has_token("connection", "upgrade")
    }

    /// Path and query.
    pub(super) fn split_target(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }
}
