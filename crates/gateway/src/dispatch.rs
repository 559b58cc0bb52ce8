//! Turns a client's message into invocations: routing, faults, and what the client gets in return.
//!
//! API Gateway invokes the function for each message at once and promises no order (README.md, section 4). On one-way
//! routes it ignores the returned status; for an exception, a malformed response, a timeout or a throttle it sends an
//! `Internal server error` frame.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::{debug, warn};

use crate::{event, faults::Fate, gateway::Gateway, id, reply, reply::Reply, route, ws::Connection};

/// How long `reorder` holds a message back for a later one, which may never come.
const MAX_HOLD: Duration = Duration::from_millis(100);
/// Bytes of unanswered events of all connections; beyond it, messages are throttled.
const MAX_PENDING: usize = 256 * 1024 * 1024;
/// Cost of an unanswered event besides its bytes.
const PENDING_OVERHEAD: usize = 1024;

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

/// The share of [`MAX_PENDING`] that one event holds until it is answered.
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
    /// Handles a message from a client.
    pub(crate) fn message(self: &Arc<Self>, connection: &Arc<Connection>, text: Utf8Bytes) {
        self.counters.message_in(text.len());
        let request_id = id::random_id();
        let pending = if self.rates.allow_request() { Pending::new(&self.pending, text.len()) } else { None };
        let Some(pending) = pending else {
            self.notify(connection, reply::too_many_requests(&connection.id, &request_id));
            return;
        };
        let Some(route) = self.routes.select(&text) else {
            self.notify(connection, reply::forbidden(&connection.id, &request_id));
            return;
        };
        let event =
            event::message(connection.origin(&self.api), &request_id, &route, &id::random_id(), &text);
        drop(text);
        let fate = if &*route == route::DEFAULT { self.faults.message() } else { Fate::default() };
        if fate.dropped {
            debug!(connection_id = %connection.id, request_id, "a fault dropped an event");
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
        tokio::spawn(Arc::clone(self).deliver(delivery, fate));
    }

    /// Delivers the `$disconnect` event of a connection that has ended. Best effort, as on AWS.
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

    async fn deliver(self: Arc<Self>, delivery: Delivery, fate: Fate) {
        if !fate.delay.is_zero() {
            tokio::time::sleep(fate.delay).await;
        }
        if fate.held {
            let _overtaken = tokio::time::timeout(MAX_HOLD, overtaken(&delivery)).await;
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
                None => "the response has no valid statusCode".to_owned(),
                Some(reply) => {
                    if let Some(body) = reply.body.filter(|_| self.routes.responds(&delivery.route)) {
                        self.notify(connection, body);
                    }
                    return;
                }
            },
        };
        warn!(connection_id = %connection.id, request_id = delivery.request_id, route = &*delivery.route, failure, "invocation failed");
        self.notify(connection, reply::internal_server_error(&connection.id, &delivery.request_id));
    }

    /// Sends a client a message of the gateway itself. Lost if the connection is full or gone.
    fn notify(&self, connection: &Connection, text: String) {
        if let Err(error) = connection.send(text.into(), &self.counters) {
            debug!(connection_id = %connection.id, ?error, "cannot send an error frame or a route response");
        }
    }
}

/// Waits until a later message of the same connection has been answered.
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
    fn unanswered_events_are_bounded() {
        let total = Arc::new(AtomicUsize::new(0));
        let held: Vec<Pending> = std::iter::from_fn(|| Pending::new(&total, 1024 * 1024)).collect();
        assert!((250..256).contains(&held.len()), "{}", held.len());
        drop(held);
        assert_eq!(total.load(Relaxed), 0);
    }
}
