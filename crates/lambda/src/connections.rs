//! Connection records: one `DynamoDB` item per connection, behind a cache.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::DisplayErrorContext,
    operation::put_item::PutItemError,
    types::{AttributeValue, ReturnValue},
};
use parking_lot::Mutex;
use shellbridge_protocol::{
    ids::{ConnectionId, SessionId, UserId},
    times::{UnixMs, UnixSecs},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};

use crate::{
    aws::{self, Aws},
    config::Limits,
    deadline::Deadline,
};

/// The table's partition key.
const KEY: &str = "connectionId";
/// Seconds from `connectedAt` to `DynamoDB`'s TTL: API Gateway's limit of 2 h, plus a margin.
const ITEM_TTL: i64 = 2 * 3600 + 600;

/// A connection, as authorized by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) connection_id: ConnectionId,
    pub(crate) session_id: SessionId,
    pub(crate) user_id: UserId,
    pub(crate) username: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) connected_at: UnixMs,
    pub(crate) token_expires_at: UnixSecs,
    pub(crate) callback_url: String,
    /// The token's `shellbridgeId`, for the backend.
    pub(crate) token_id: Option<String>,
}

/// Result of storing a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutOutcome {
    /// The record is in the table, from this attempt or an earlier one.
    Created,
    /// The id belongs to another connection's record.
    Conflict,
}

/// The request to `DynamoDB` failed or timed out; the log has the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreError;

/// The table and a cache of its records. A missing record is never cached.
pub(crate) struct ConnectionTable {
    table: String,
    aws: Aws,
    limits: Limits,
    client: OnceCell<Client>,
    cache: Mutex<Cache>,
}

impl ConnectionTable {
    pub(crate) fn new(table: String, aws: Aws, limits: Limits) -> Self {
        Self { table, aws, limits, client: OnceCell::new(), cache: Mutex::default() }
    }

    /// Stores the record of a new connection.
    pub(crate) async fn put(&self, record: &Record, deadline: Deadline) -> Result<PutOutcome, StoreError> {
        let client = self.client().await;
        let put = client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(record.to_item()))
            .condition_expression(format!("attribute_not_exists({KEY})"));
        let done = timeout(self.left(deadline), Box::pin(put.send())).await.map_err(|_| late("PutItem"))?;
        let stored = match done {
            Ok(_) => PutOutcome::Created,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
            {
                // An earlier attempt of this put may have stored the record.
                match self.read(&record.connection_id, deadline).await? {
                    Some(stored) if stored.is_same_connection(record) => PutOutcome::Created,
                    _ => PutOutcome::Conflict,
                }
            }
            Err(error) => {
                tracing::error!(error = %DisplayErrorContext(error), "PutItem failed");
                return Err(StoreError);
            }
        };
        if stored == PutOutcome::Created {
            self.cache.lock().insert(Arc::new(record.clone()));
        }
        Ok(stored)
    }

    /// The record of a connection, from the cache or by a consistent read.
    pub(crate) async fn get(
        &self,
        id: &ConnectionId,
        deadline: Deadline,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        let cached = self.cache.lock().get(id);
        if cached.is_some() {
            return Ok(cached);
        }
        let record = self.read(id, deadline).await?.map(Arc::new);
        if let Some(record) = &record {
            self.cache.lock().insert(record.clone());
        }
        Ok(record)
    }

    /// Deletes and returns the record of a connection.
    pub(crate) async fn delete(&self, id: &ConnectionId, deadline: Deadline) -> Option<Arc<Record>> {
        let cached = self.cache.lock().remove(id);
        let delete = self
            .client()
            .await
            .delete_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(id.to_string()))
            .return_values(ReturnValue::AllOld);
        match timeout(self.left(deadline), Box::pin(delete.send())).await {
            Ok(Ok(deleted)) => {
                deleted.attributes.as_ref().and_then(Record::from_item).map(Arc::new).or(cached)
            }
            Ok(Err(error)) => {
                // The item's TTL deletes it later.
                tracing::error!(error = %DisplayErrorContext(error), "DeleteItem failed");
                cached
            }
            Err(_) => {
                late("DeleteItem");
                cached
            }
        }
    }

    async fn read(&self, id: &ConnectionId, deadline: Deadline) -> Result<Option<Record>, StoreError> {
        let get = self
            .client()
            .await
            .get_item()
            .table_name(&self.table)
            .key(KEY, AttributeValue::S(id.to_string()))
            .consistent_read(true);
        match timeout(self.left(deadline), Box::pin(get.send())).await.map_err(|_| late("GetItem"))? {
            Ok(got) => Ok(got.item.as_ref().and_then(Record::from_item)),
            Err(error) => {
                tracing::error!(error = %DisplayErrorContext(error), "GetItem failed");
                Err(StoreError)
            }
        }
    }

    async fn client(&self) -> &Client {
        let make = || async {
            let config = aws_sdk_dynamodb::config::Builder::from(self.aws.config().await)
                .timeout_config(aws::timeout_config(&self.limits))
                .retry_config(aws::retry_config())
                .interceptor(self.aws.retries());
            Client::from_conf(config.build())
        };
        self.client.get_or_init(make).await
    }

    /// Time for one operation, leaving enough to tell the client how it went.
    fn left(&self, deadline: Deadline) -> Duration {
        deadline.budget(self.limits.aws, self.limits.aws_attempt.min(Duration::from_millis(500)))
    }
}

fn late(operation: &str) -> StoreError {
    tracing::error!(operation, "DynamoDB did not answer in time");
    StoreError
}

impl Record {
    fn is_same_connection(&self, other: &Self) -> bool {
        (self.connected_at, &self.session_id, &self.user_id)
            == (other.connected_at, &other.session_id, &other.user_id)
    }

    fn to_item(&self) -> HashMap<String, AttributeValue> {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |number: &dyn ToString| AttributeValue::N(number.to_string());
        // In seconds: DynamoDB would read milliseconds as a distant date and never delete the item.
        let expires_at = self.connected_at.secs().saturating_add(ITEM_TTL);
        let mut item = HashMap::from([
            (KEY.to_owned(), text(&self.connection_id)),
            ("sessionId".to_owned(), text(&self.session_id)),
            ("userId".to_owned(), text(&self.user_id)),
            ("readOnly".to_owned(), AttributeValue::Bool(self.read_only)),
            ("connectedAt".to_owned(), number(&self.connected_at)),
            ("tokenExpiresAt".to_owned(), number(&self.token_expires_at)),
            ("expiresAt".to_owned(), number(&expires_at)),
            ("callbackUrl".to_owned(), text(&self.callback_url)),
        ]);
        for (name, value) in [("username", &self.username), ("tokenId", &self.token_id)] {
            if let Some(value) = value {
                item.insert(name.to_owned(), text(value));
            }
        }
        item
    }

    /// `None` for an item that another program wrote.
    fn from_item(item: &HashMap<String, AttributeValue>) -> Option<Self> {
        let text = |name: &str| item.get(name)?.as_s().ok().cloned();
        let number = |name: &str| item.get(name)?.as_n().ok();
        Some(Self {
            connection_id: text(KEY)?.into(),
            session_id: text("sessionId")?.into(),
            user_id: text("userId")?.into(),
            username: text("username"),
            read_only: *item.get("readOnly")?.as_bool().ok()?,
            connected_at: UnixMs(number("connectedAt")?.parse().ok()?),
            token_expires_at: UnixSecs(number("tokenExpiresAt")?.parse().ok()?),
            callback_url: text("callbackUrl")?,
            token_id: text("tokenId"),
        })
    }
}

/// Cached records. At a few hundred bytes each, well under a megabyte of the process's 15 MB.
const CACHE_CAPACITY: usize = 1_024;
/// Lifetime of a cached record. A record never changes, but another process may delete it.
const CACHE_FOR: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
struct Cache(HashMap<ConnectionId, (Instant, Arc<Record>)>);

impl Cache {
    fn get(&self, id: &ConnectionId) -> Option<Arc<Record>> {
        self.0.get(id).filter(|(read, _)| read.elapsed() < CACHE_FOR).map(|(_, record)| record.clone())
    }

    fn insert(&mut self, record: Arc<Record>) {
        if self.0.len() >= CACHE_CAPACITY && !self.0.contains_key(&record.connection_id) {
            self.0.retain(|_, (read, _)| read.elapsed() < CACHE_FOR);
            let oldest = self.0.iter().min_by_key(|(_, (read, _))| *read).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest.filter(|_| self.0.len() >= CACHE_CAPACITY) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(record.connection_id.clone(), (Instant::now(), record));
    }

    fn remove(&mut self, id: &ConnectionId) -> Option<Arc<Record>> {
        self.0.remove(id).map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Arc<Record> {
        Arc::new(Record {
            connection_id: id.into(),
            session_id: "s".into(),
            user_id: "u".into(),
            username: None,
            read_only: false,
            connected_at: UnixMs(1_701_245_041_796),
            token_expires_at: UnixSecs(1_701_248_641),
            callback_url: "https://x".into(),
            token_id: None,
        })
    }

    #[test]
    fn regression_ttl_in_milliseconds() {
        let item = record("c").to_item();
        let expires_at: i64 = item["expiresAt"].as_n().unwrap().parse().unwrap();
        assert_eq!(expires_at, 1_701_245_041 + ITEM_TTL);
    }

    #[test]
    fn a_record_survives_the_round_trip_and_a_foreign_item_is_none() {
        for username in [None, Some("Ann".to_owned())] {
            let token_id = username.as_ref().map(|_| "session.token".to_owned());
            let record = Record { username, token_id, ..(*record("c")).clone() };
            assert_eq!(Record::from_item(&record.to_item()), Some(record));
        }
        assert_eq!(Record::from_item(&HashMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_forgets_after_a_minute() {
        let mut cache = Cache::default();
        cache.insert(record("c"));
        tokio::time::advance(CACHE_FOR / 2).await;
        assert!(cache.get(&"c".into()).is_some());
        tokio::time::advance(CACHE_FOR / 2).await;
        assert!(cache.get(&"c".into()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_evicts_the_oldest_record() {
        let mut cache = Cache::default();
        for n in 0..=CACHE_CAPACITY {
            cache.insert(record(&n.to_string()));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(cache.0.len(), CACHE_CAPACITY);
        assert!(cache.get(&"0".into()).is_none() && cache.get(&"1".into()).is_some());
    }
}
