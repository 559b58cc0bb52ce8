//! The embedded `DynamoDB`: dynoxide in memory, with the Lambda's table, counting requests by operation.
//!
//! dynoxide 3.2 has no hook for requests and a private router, so a relay in front scans the bytes for `X-Amz-Target`
//! headers. A JSON body cannot contain one, as JSON escapes line breaks in strings. The relay also disconnects clients
//! that send an `Origin`: dynoxide admits every web page, and none should reach the table.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use dynoxide::Database;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tracing::{debug, warn};

use crate::{counters::Counters, http1};

/// The Lambda's table (wire contract, section 7).
pub const TABLE: &str = "WebSocketConnections";
/// Interval at which expired items are deleted. AWS may take days; nothing may rely on it.
const SWEEP: Duration = Duration::from_mins(1);
const TARGET: &[u8] = b"\r\nx-amz-target: DynamoDB_20120810.";
const ORIGIN: &[u8] = b"\r\norigin:";

/// Creates the table and serves `DynamoDB` on a listener until dropped.
pub async fn serve(listener: TcpListener, counters: Arc<Counters>) -> anyhow::Result<()> {
    let database = Database::memory().context("DynamoDB in memory")?;
    create_table(&database).context("creating the table")?;
    let inner = TcpListener::bind("127.0.0.1:0").await.context("DynamoDB's own listener")?;
    let address = inner.local_addr()?;
    let relay = async {
        loop {
            let (client, _) = http1::accept(&listener).await;
            let counters = Arc::clone(&counters);
            tokio::spawn(async move {
                if let Err(error) = relay(client, address, &counters).await {
                    debug!(%error, "a connection to DynamoDB ended");
                }
            });
        }
    };
    let sweep = async {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            if let Err(error) = database.sweep_ttl() {
                warn!(%error, "cannot delete expired items");
            }
        }
    };
    tokio::select! {
        () = dynoxide::server::serve_on(inner, database.clone()) => Ok(()),
        () = relay => Ok(()),
        () = sweep => Ok(()),
    }
}

fn create_table(database: &Database) -> anyhow::Result<()> {
    database.create_table(serde_json::from_value(json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            { "AttributeName": "connectionId", "AttributeType": "S" },
            { "AttributeName": "sessionId", "AttributeType": "S" },
        ],
        "KeySchema": [{ "AttributeName": "connectionId", "KeyType": "HASH" }],
        "GlobalSecondaryIndexes": [{
            "IndexName": "SessionIdIndex",
            "KeySchema": [{ "AttributeName": "sessionId", "KeyType": "HASH" }],
            "Projection": { "ProjectionType": "ALL" },
        }],
    }))?)?;
    database.update_time_to_live(serde_json::from_value(json!({
        "TableName": TABLE,
        "TimeToLiveSpecification": { "AttributeName": "expiresAt", "Enabled": true },
    }))?)?;
    Ok(())
}

async fn relay(client: TcpStream, address: std::net::SocketAddr, counters: &Counters) -> io::Result<()> {
    let server = TcpStream::connect(address).await?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut scanner = Scanner::default();
    tokio::try_join!(
        copy(client_read, server_write, |bytes| {
            scanner.scan(bytes, |operation| counters.dynamodb.increment(operation))
        }),
        copy(server_read, client_write, |_| Ok(())),
    )?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut see: impl FnMut(&[u8]) -> Result<(), BrowserRequest>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        see(bytes).map_err(io::Error::other)?;
        to.write_all(bytes).await?;
    }
}

/// The request comes from a web page.
#[derive(Debug, thiserror::Error)]
#[error("the request has an Origin")]
struct BrowserRequest;

/// Finds operations in a stream of requests that arrives in arbitrary pieces.
#[derive(Debug)]
struct Scanner {
    target: Pattern,
    origin: Pattern,
    /// The operation's name, as far as it was read.
    name: Option<String>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { target: Pattern::new(TARGET), origin: Pattern::new(ORIGIN), name: None }
    }
}

impl Scanner {
    fn scan(&mut self, bytes: &[u8], mut found: impl FnMut(&str)) -> Result<(), BrowserRequest> {
        for &byte in bytes {
            if self.origin.matches(byte) {
                return Err(BrowserRequest);
            }
            if let Some(name) = &mut self.name {
                if byte.is_ascii_alphanumeric() && name.len() < 64 {
                    name.push(char::from(byte));
                    continue;
                }
                found(name);
                self.name = None;
            }
            if self.target.matches(byte) {
                self.name = Some(String::new());
            }
        }
        Ok(())
    }
}

/// A case-insensitive search in a stream. The text contains one carriage return, as its first byte.
#[derive(Debug)]
struct Pattern {
    text: &'static [u8],
    matched: usize,
}

impl Pattern {
    fn new(text: &'static [u8]) -> Self {
        Self { text, matched: 0 }
    }

    /// Consumes a byte and returns whether it completed the text.
    fn matches(&mut self, byte: u8) -> bool {
        let expected =
            self.text.get(self.matched).is_some_and(|expected| expected.eq_ignore_ascii_case(&byte));
        self.matched = if expected { self.matched + 1 } else { usize::from(byte == b'\r') };
        let complete = self.matched == self.text.len();
        if complete {
            self.matched = 0;
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_found_however_the_stream_is_cut() {
        let request = |operation: &str| {
            format!(
                "POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: 2\r\n\r\n{{}}"
            )
        };
        let stream = format!("{}{}{}", request("GetItem"), request("PutItem"), request("GetItem"));
        for size in 1..stream.len() {
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                scanner.scan(piece, |name| seen.push(name.to_owned())).unwrap();
            }
            assert_eq!(seen, ["GetItem", "PutItem", "GetItem"], "pieces of {size}");
        }
    }

    #[test]
    fn requests_of_web_pages_are_detected() {
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nORIGIN: https://evil.example\r\n\r\n";
        for size in 1..request.len() {
            let mut scanner = Scanner::default();
            assert!(
                request.chunks(size).any(|piece| scanner.scan(piece, |_| ()).is_err()),
                "pieces of {size}"
            );
        }
        let body = b"POST / HTTP/1.1\r\n\r\n{\"\\r\\norigin:\":1}";
        assert!(Scanner::default().scan(body, |_| ()).is_ok());
    }

    #[test]
    fn the_table_is_the_lambdas() {
        let database = Database::memory().unwrap();
        create_table(&database).unwrap();
        assert!(create_table(&database).is_err());
    }
}
