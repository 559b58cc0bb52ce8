//! The clients of a session: their input streams, and how long the shell is held for those that are lost.

use std::{collections::HashMap, time::Duration};

use shellbridge_protocol::{
    backoff::{Backoff, BackoffTimer},
    ids::{ClientId, ConnectionId},
    limits::{INPUT_GAP_AFTER, INPUT_WINDOW, MAX_CLIENTS, PROBE_MAX},
    stream::{Arrival, Reassembler},
};

/// Waits between reports of an open hole in the input.
const GAP_REPORTS: Backoff = Backoff::new(INPUT_GAP_AFTER, PROBE_MAX);

/// One client, over all of its connections.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) input: Reassembler,
    /// The connection that speaks for it.
    pub(crate) holder: Option<ConnectionId>,
    /// Since when it has none, and the output it still needs if the shell is to wait for it.
    pub(crate) gone: Option<Gone>,
    /// When an open hole is reported.
    gap: Option<BackoffTimer>,
    /// Which of the session's writes to the shell was its last; 0 if none was.
    pub(crate) wrote: u64,
}

/// A client without a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone {
    pub(crate) since: Duration,
    /// First output byte that it did not acknowledge; none if it left of its own will.
    pub(crate) needs: Option<u64>,
    /// It knows that the shell has ended, or does not want to.
    pub(crate) told_exit: bool,
}

/// At most [`MAX_CLIENTS`] clients by their ids.
#[derive(Debug, Default)]
pub(crate) struct Clients(HashMap<ClientId, Client>);

impl Client {
    fn new() -> Self {
        Self { input: Reassembler::new(INPUT_WINDOW), holder: None, gone: None, gap: None, wrote: 0 }
    }

    /// Takes typed bytes and keeps watch over holes.
    pub(crate) fn typed(&mut self, offset: u64, bytes: &[u8], now: Duration) -> Arrival {
        let arrival = self.input.push(offset, bytes);
        if !self.input.has_hole() {
            self.gap = None;
        } else if self.gap.is_none() || arrival == Arrival::Advanced {
            self.gap = Some(BackoffTimer::new(GAP_REPORTS, now));
        }
        arrival
    }

    /// When to look at its hole again.
    pub(crate) fn gap_at(&self) -> Option<Duration> {
        self.gap.as_ref().map(BackoffTimer::due)
    }

    /// Whether a hole has been open for so long that the client should be told. Told again ever more rarely.
    pub(crate) fn gap_due(&mut self, now: Duration) -> bool {
        self.gap.as_mut().is_some_and(|timer| timer.fire(now))
    }

    /// A connection takes it over: sending goes on at what is given back. What an earlier page typed beyond a hole is
    /// not for the later one to complete.
    pub(crate) fn attach(&mut self, holder: ConnectionId) -> u64 {
        self.holder = Some(holder);
        self.gone = None;
        self.input.discard_early();
        self.gap = None;
        self.input.next()
    }

    /// Forgets what was not written to the shell that ended.
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

    /// Whether a client of this id finds no place: it is new, there are as many as may be, and none of them is gone.
    pub(crate) fn is_full_for(&self, id: &ClientId) -> bool {
        self.0.len() >= MAX_CLIENTS
            && !self.0.contains_key(id)
            && self.0.values().all(|client| client.gone.is_none())
    }

    /// The client of this id, made if it is new. None if there are too many and none of them is gone.
    pub(crate) fn enter(&mut self, id: &ClientId) -> Option<&mut Client> {
        if !self.0.contains_key(id) && self.0.len() >= MAX_CLIENTS {
            let longest = self.0.iter().filter_map(|(id, client)| Some((client.gone?.since, id))).min()?;
            let longest = longest.1.clone();
            self.0.remove(&longest);
        }
        Some(self.0.entry(id.clone()).or_insert_with(Client::new))
    }

    /// The first offset that a lost client still needs, of those that the shell waits for. What is gone from the log,
    /// which begins at `start`, needs no waiting: they get a picture in any case.
    pub(crate) fn waited_for(&self, now: Duration, grace: Duration, start: u64) -> Option<u64> {
        self.gone(now, grace).filter_map(|gone| gone.needs).filter(|needs| *needs >= start).min()
    }

    /// Whether one who was lost a short time ago has not learnt that the shell ended at `end`.
    pub(crate) fn any_unaware(&self, now: Duration, grace: Duration, end: u64) -> bool {
        self.gone(now, grace).any(|gone| gone.needs.is_some_and(|needs| needs < end) || !gone.told_exit)
    }

    /// When the next lost client stops being waited for.
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
    fn the_longest_gone_makes_room_and_nobody_else_does() {
        let mut clients = Clients::default();
        for n in 0..MAX_CLIENTS {
            assert!(clients.enter(&format!("client-{n:02}").into()).is_some());
        }
        assert!(clients.enter(&"one-too-many".into()).is_none());
        for (id, since) in [("client-05", 9), ("client-07", 3)] {
            clients.get_mut(&id.into()).unwrap().gone =
                Some(Gone { since: Duration::from_secs(since), needs: None, told_exit: true });
        }
        assert!(clients.enter(&"newcomer".into()).is_some());
        assert!(clients.get(&"client-07".into()).is_none() && clients.get(&"client-05".into()).is_some());
        assert!(clients.enter(&"client-05".into()).is_some(), "one that is known needs no room");
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
