//! The clients of a session: their input streams, and how long the shell waits for lost ones.

use std::{collections::HashMap, time::Duration};

use shellbridge_protocol::{
    backoff::{Backoff, BackoffTimer},
    ids::{ClientId, ConnectionId},
    limits::{INPUT_GAP_AFTER, INPUT_WINDOW, MAX_CLIENTS, PROBE_MAX},
    stream::{Arrival, Reassembler},
};

/// Waits between reports of an open hole in the input.
const GAP_REPORTS: Backoff = Backoff::new(INPUT_GAP_AFTER, PROBE_MAX);

/// A client over all of its connections.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) input: Reassembler,
    /// The connection that holds the client.
    pub(crate) holder: Option<ConnectionId>,
    /// Set while no connection holds it.
    pub(crate) gone: Option<Gone>,
    /// When an open hole is reported.
    gap: Option<BackoffTimer>,
    /// Number of the session's write to the shell that took this client's input last; 0 if none did.
    pub(crate) wrote: u64,
}

/// A client without a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) since: Duration,
    /// First unacknowledged output byte; `None` if the client detached, so that the shell does not wait for it.
    pub(crate) needs: Option<u64>,
    /// It has received `exit`, or has detached.
    pub(crate) knows_exit: bool,
}

/// Clients by id, at most [`MAX_CLIENTS`].
#[derive(Debug, Default)]
pub(crate) struct Clients(HashMap<ClientId, Client>);

impl Client {
    fn new() -> Self {
        Self { input: Reassembler::new(INPUT_WINDOW), holder: None, gone: None, gap: None, wrote: 0 }
    }

    /// Receives typed bytes and watches for holes.
    pub(crate) fn typed(&mut self, offset: u64, bytes: &[u8], now: Duration) -> Arrival {
        let arrival = self.input.push(offset, bytes);
        if !self.input.has_hole() {
            self.gap = None;
        } else if self.gap.is_none() || arrival == Arrival::Advanced {
            self.gap = Some(BackoffTimer::new(GAP_REPORTS, now));
        }
        arrival
    }

    /// When to call [`Client::gap_due`] again.
    pub(crate) fn gap_at(&self) -> Option<Duration> {
        self.gap.as_ref().map(BackoffTimer::due)
    }

    /// Whether to report a hole. Reports recur with a backoff.
    pub(crate) fn gap_due(&mut self, now: Duration) -> bool {
        self.gap.as_mut().is_some_and(|timer| timer.fire(now))
    }

    /// A connection takes over the client. Returns the offset at which its input continues. Discards bytes beyond a hole: a
    /// later page must not complete what an earlier one typed.
    pub(crate) fn attach(&mut self, holder: ConnectionId) -> u64 {
        self.holder = Some(holder);
        self.gone = None;
        self.input.discard_early();
        self.gap = None;
        self.input.next()
    }

    /// Discards input that the ended shell has not read.
    pub(crate) fn discard_input(&mut self) {
        self.input.discard();
        self.gap = None;
    }
}

impl Clients {
    pub(crate) fn get(&self, id: &ClientId) -> Option<&Client> {
        self.0.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &ClientId) -> Option<&mut Client> {
        self.0.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ClientId, &Client)> {
        self.0.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&ClientId, &mut Client)> {
        self.0.iter_mut()
    }

    /// Whether there is no room for a client with this id: it is new, and all places belong to connected clients.
    pub(crate) fn is_full_for(&self, id: &ClientId) -> bool {
        self.0.len() >= MAX_CLIENTS
            && !self.0.contains_key(id)
            && self.0.values().all(|client| client.gone.is_none())
    }

    /// The client with this id, created if new in place of the one gone longest. `None` if there is no room.
    pub(crate) fn enter(&mut self, id: &ClientId) -> Option<&mut Client> {
        if !self.0.contains_key(id) && self.0.len() >= MAX_CLIENTS {
            let longest = self.0.iter().filter_map(|(id, client)| Some((client.gone?.since, id))).min()?;
            let longest = longest.1.clone();
            self.0.remove(&longest);
        }
        Some(self.0.entry(id.clone()).or_insert_with(Client::new))
    }

    /// The lowest offset needed by a lost client for which the shell waits. Ignores clients whose next byte precedes `start`,
    /// the start of the log: they receive a snapshot in any case.
    pub(crate) fn waited_for(&self, now: Duration, grace: Duration, start: u64) -> Option<u64> {
        self.gone(now, grace).filter_map(|gone| gone.needs).filter(|needs| *needs >= start).min()
    }

    /// Whether a recently lost client does not know yet that the shell has ended at `end`.
    pub(crate) fn any_unaware(&self, now: Duration, grace: Duration, end: u64) -> bool {
        self.gone(now, grace).any(|gone| gone.needs.is_some_and(|needs| needs < end) || !gone.knows_exit)
    }

    /// When the shell stops waiting for the next lost client.
    pub(crate) fn wait_ends(&self, now: Duration, grace: Duration) -> Option<Duration> {
        self.gone(now, grace).map(|gone| gone.since + grace).min()
    }

    fn gone(&self, now: Duration, grace: Duration) -> impl Iterator<Item = Gone> {
        self.0.values().filter_map(|client| client.gone).filter(move |gone| now < gone.since + grace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_client_gone_longest_makes_room() {
        let mut clients = Clients::default();
        for n in 0..MAX_CLIENTS {
            assert!(clients.enter(&format!("client-{n:02}").into()).is_some());
        }
        assert!(clients.enter(&"one-too-many".into()).is_none());
        for (id, since) in [("client-05", 9), ("client-07", 3)] {
            clients.get_mut(&id.into()).unwrap().gone =
                Some(Gone { since: Duration::from_secs(since), needs: None, knows_exit: true });
        }
        assert!(clients.enter(&"newcomer".into()).is_some());
        assert!(clients.get(&"client-07".into()).is_none() && clients.get(&"client-05".into()).is_some());
        assert!(clients.enter(&"client-05".into()).is_some(), "a known client needs no room");
    }

    #[test]
    fn a_hole_is_reported_after_two_seconds_and_then_more_rarely() {
        let secs = Duration::from_secs;
        let mut client = Client::new();
        client.typed(1, b"b", secs(0));
        assert!(!client.gap_due(secs(1)));
        assert!(client.gap_due(secs(2)));
        assert!(!client.gap_due(secs(5)));
        assert!(client.gap_due(secs(6)));
        client.typed(0, b"a", secs(7));
        assert_eq!(client.gap_at(), None);
    }
}
