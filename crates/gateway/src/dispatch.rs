//! From a message to invocations: routing, faults, order, and what comes back to the client.
//!
//! API Gateway invokes at once for each message and promises no order (apigateway-websocket.md, section 4); `serial`
//! and `shuffle` are there to compare. One-way routes: a returned status is ignored, whatever it is; an exception,
//! a malformed answer, a timeout or a throttle is told by an `Internal server error` frame.

use std::{
    mem,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::{debug, warn};

use crate::{
    config::Dispatch, event, faults::Fate, gateway::Gateway, id, reply, reply::Reply, route, ws::Connection,
};

/// Longest time a message is held back for a later one that may never come.
const HOLD_AT_MOST: Duration = Duration::from_millis(100);
/// Messages within this time change places in `shuffle`.
const SHUFFLE_WINDOW: Duration = Duration::from_millis(5);
/// Bytes of events not yet answered at most, for all connections; beyond it the client is throttled.
const MAX_PENDING: usize = 256 * 1024 * 1024;
/// What a pending event costs besides its bytes.
const PENDING_OVERHEAD: usize = 1024;

/// Messages of one connection in `serial`.
pub type SerialQueue = mpsc::UnboundedSender<(Delivery, Fate)>;
/// Messages of one connection in `shuffle` that wait for others to change places with.
pub type Batch = Vec<(Delivery, Fate)>;

/// An event on its way to the function.
#[derive(Debug)]
pub struct Delivery {
    connection: Arc<Connection>,
    route: Arc<str>,
    request_id: String,
    event: Bytes,
    number: u64,
    _pending: Pending,
}

/// Holds a place among the events not yet answered.
#[derive(Debug)]
struct Pending {
    total: Arc<AtomicUsize>,
    cost: usize,
}

impl Pending {
    fn new(total: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let cost = bytes + PENDING_OVERHEAD;
        let pending = Self { total: Arc::clone(total), cost };
        (total.fetch_add(cost, Relaxed) + cost <= MAX_PENDING).then_some(pending)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.total.fetch_sub(self.cost, Relaxed);
    }
}

impl Gateway {
    /// Takes a message of a client.
    pub(crate) fn message(self: &Arc<Self>, connection: &Arc<Connection>, text: Utf8Bytes) {
        self.counters.message_in(text.len());
        let request_id = id::random_id();
        let pending = if self.rates.allow_request() { Pending::new(&self.pending, text.len()) } else { None };
        let Some(pending) = pending else {
            self.tell(connection, reply::too_many_requests(connection.id.as_str(), &request_id));
            return;
        };
        let Some(route) = self.routes.select(&text) else {
            self.tell(connection, reply::forbidden(connection.id.as_str(), &request_id));
            return;
        };
        let event =
            event::message(connection.origin(&self.api), &request_id, &route, &id::random_id(), &text);
        drop(text);
        let fate = if &*route == route::DEFAULT { self.faults.message() } else { Fate::default() };
        if fate.dropped {
            debug!(connection_id = %connection.id, request_id, "dropped an event, as asked");
            return;
        }
        let number = connection.numbered.fetch_add(1, Relaxed) + 1;
        let delivery = Delivery {
            connection: Arc::clone(connection),
            route,
            request_id,
            event,
            number,
            _pending: pending,
        };
        match self.dispatch {
            Dispatch::Concurrent => {
                tokio::spawn(Arc::clone(self).deliver(delivery, fate));
            }
            Dispatch::Serial => self.deliver_serially(delivery, fate),
            Dispatch::Shuffle => self.deliver_shuffled(delivery, fate),
        }
    }

    /// Takes the `$disconnect` event of a connection that is over. Best effort, as on AWS.
    pub(crate) fn disconnected(self: &Arc<Self>, event: Bytes) {
        if !self.routes.has("$disconnect") || self.faults.disconnect_lost() {
            return;
        }
        let gateway = Arc::clone(self);
        self.tasks.spawn(async move {
            gateway.counters.invocations.increment("$disconnect");
            let invoked =
                tokio::time::timeout(gateway.limits.integration_timeout, gateway.function.invoke(event))
                    .await;
            if let Ok(Err(error)) = invoked {
                debug!(%error, "$disconnect failed");
            }
        });
    }

    /// In `serial`, one task for each connection takes its messages one after another. `reorder` has no effect.
    fn deliver_serially(self: &Arc<Self>, delivery: Delivery, fate: Fate) {
        let connection = Arc::clone(&delivery.connection);
        let queue = connection.serial.get_or_init(|| {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let gateway = Arc::clone(self);
            tokio::spawn(async move {
                while let Some((delivery, fate)) = receiver.recv().await {
                    Arc::clone(&gateway).deliver(delivery, Fate { held: false, ..fate }).await;
                }
            });
            sender
        });
        // The receiver lives as long as the sender does. What waits is bounded by `MAX_PENDING`.
        let _sent = queue.send((delivery, fate));
    }

    fn deliver_shuffled(self: &Arc<Self>, delivery: Delivery, fate: Fate) {
        let connection = Arc::clone(&delivery.connection);
        let mut batch = connection.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.push((delivery, fate));
        if batch.len() > 1 {
            return;
        }
        drop(batch);
        let gateway = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(SHUFFLE_WINDOW).await;
            let mut batch = mem::take(&mut *connection.batch.lock().unwrap_or_else(PoisonError::into_inner));
            gateway.faults.shuffle(&mut batch);
            for (delivery, fate) in batch {
                tokio::spawn(Arc::clone(&gateway).deliver(delivery, fate));
            }
        });
    }

    async fn deliver(self: Arc<Self>, delivery: Delivery, fate: Fate) {
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        if fate.held {
            let _overtaken = tokio::time::timeout(HOLD_AT_MOST, overtaken(&delivery)).await;
        }
        let delivery = Arc::new(delivery);
        if fate.repeated {
            let (gateway, delivery) = (Arc::clone(&self), Arc::clone(&delivery));
            tokio::spawn(async move { gateway.invoke(&delivery).await });
        }
        self.invoke(&delivery).await;
        if !fate.held {
            delivery.connection.invoked.fetch_max(delivery.number, Relaxed);
            delivery.connection.overtaken.notify_waiters();
        }
    }

    async fn invoke(&self, delivery: &Delivery) {
        self.counters.invocations.increment(&delivery.route);
        let invocation = self.function.invoke(delivery.event.clone());
        let answer = tokio::time::timeout(self.limits.integration_timeout, invocation).await;
        let connection = &delivery.connection;
        let failure = match answer {
            Err(_) => "the integration timed out".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(payload)) => match Reply::parse(&payload) {
                None => "the answer has no statusCode".to_owned(),
                Some(reply) => {
                    if let Some(body) = reply.body.filter(|_| self.routes.responds(&delivery.route)) {
                        self.tell(connection, body);
                    }
                    return;
                }
            },
        };
        warn!(connection_id = %connection.id, request_id = delivery.request_id, route = &*delivery.route, failure, "invocation failed");
        self.tell(connection, reply::internal_server_error(connection.id.as_str(), &delivery.request_id));
    }

    /// Sends a client something it did not wait for; if it cannot take it, it does without.
    fn tell(&self, connection: &Connection, text: String) {
        if let Err(refused) = connection.send(text.into(), &self.counters) {
            debug!(connection_id = %connection.id, ?refused, "a message of the gateway itself was lost");
        }
    }
}

/// Waits until a later message of the same connection was invoked and answered.
async fn overtaken(delivery: &Delivery) {
    loop {
        let notified = delivery.connection.overtaken.notified();
        if delivery.connection.invoked.load(Relaxed) > delivery.number {
            return;
        }
        notified.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_not_yet_answered_are_bounded() {
        let total = Arc::new(AtomicUsize::new(0));
        let held: Vec<Pending> = std::iter::from_fn(|| Pending::new(&total, 1024 * 1024)).collect();
        assert!((250..256).contains(&held.len()), "{}", held.len());
        drop(held);
        assert_eq!(total.load(Relaxed), 0);
    }
}
