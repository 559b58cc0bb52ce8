//! The embedded `DynamoDB`: dynoxide over memory, its table, and a count of the requests by operation.
//!
//! dynoxide 3.2 has no hook for requests and keeps its router to itself, so the count is taken from the bytes on
//! their way: a relay in front looks for `X-Amz-Target` headers. A JSON body cannot hold one after a line break,
//! since JSON escapes line breaks in strings.

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
/// How often expired items go. AWS takes up to days; nothing may rely on it.
const SWEEP: Duration = Duration::from_mins(1);
const TARGET: &[u8] = b"\r\nx-amz-target: DynamoDB_20120810.";

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
                warn!(%error, "expired items");
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
        copy(client_read, server_write, |bytes| scanner
            .scan(bytes, |operation| counters.dynamodb.increment(operation))),
        copy(server_read, client_write, |_| ()),
    )?;
    Ok(())
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut see: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        see(bytes);
        to.write_all(bytes).await?;
    }
}

/// Finds the operations in a stream of requests, however it is cut into pieces.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes of `TARGET` matched so far.
    matched: usize,
    /// The operation's name while it is being read.
    name: Option<String>,
}

impl Scanner {
    fn scan(&mut self, bytes: &[u8], mut found: impl FnMut(&str)) {
        for &byte in bytes {
            if let Some(name) = &mut self.name {
                if byte.is_ascii_alphanumeric() && name.len() < 64 {
                    name.push(char::from(byte));
                } else {
                    found(name);
                    self.name = None;
                    self.matched = usize::from(byte == b'\r');
                }
            } else if TARGET.get(self.matched).is_some_and(|expected| expected.eq_ignore_ascii_case(&byte)) {
                self.matched += 1;
                if self.matched == TARGET.len() {
                    self.name = Some(String::new());
                    self.matched = 0;
                }
            } else {
                self.matched = usize::from(byte == b'\r');
            }
        }
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
                scanner.scan(piece, |name| seen.push(name.to_owned()));
            }
            assert_eq!(seen, ["GetItem", "PutItem", "GetItem"], "pieces of {size}");
        }
    }

    #[test]
    fn the_table_is_the_lambdas() {
        let database = Database::memory().unwrap();
        create_table(&database).unwrap();
        assert!(create_table(&database).is_err());
    }
}
