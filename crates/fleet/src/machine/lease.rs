//! The lease: until when this instance may serve, and how much of the store's silence it may trust.

use std::{sync::Arc, time::Duration};

use crate::{
    limits::{HELD, RENEW, RETRY, SETTLED},
    store::{Renewed, RequestId, Under, Written},
};

/// The instance's lease.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until: Option<Duration>,
    life: Option<u64>,
    /// Writes that the store has acknowledged under this life.
    acked: Written,
    /// Since when renewals have succeeded without a gap on one connection.
    gapless_since: Option<Duration>,
    renew_at: Duration,
    pub(super) renewing: Option<RequestId>,
    /// Signs of lost writes so far.
    losses: u64,
    /// Connections to the store so far.
    pub(super) connection: u64,
    pub(super) superseded: bool,
    pub(super) rank: u64,
    pub(super) newest: Option<(u64, Arc<str>)>,
}

/// What was known when a request was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) at: Duration,
    pub(super) settled: bool,
    losses: u64,
    connection: u64,
}

impl Lease {
    pub(super) fn held(&self, now: Duration) -> bool {
        !self.superseded && self.until.is_some_and(|until| now < until)
    }

    pub(super) const fn until(&self) -> Option<Duration> {
        if self.superseded { None } else { self.until }
    }

    /// The lease as the store has acknowledged it.
    pub(super) fn known(&self) -> Option<Under> {
        Some(Under { life: self.life?, written: self.acked })
    }

    /// The same, while it is held.
    pub(super) fn under(&self, now: Duration) -> Option<Under> {
        self.known().filter(|_| self.held(now))
    }

    /// When absence from the store starts to count, unless there is a gap before.
    pub(super) fn settles_at(&self) -> Option<Duration> {
        Some(self.gapless_since? + SETTLED)
    }

    pub(super) fn settled(&self, now: Duration) -> bool {
        self.held(now) && self.settles_at().is_some_and(|at| now >= at)
    }

    pub(super) const fn renew_at(&self) -> Duration {
        self.renew_at
    }

    pub(super) fn sent(&self, now: Duration) -> Sent {
        Sent { at: now, settled: self.settled(now), losses: self.losses, connection: self.connection }
    }

    /// Whether no write has been lost since a request was sent.
    pub(super) const fn unbroken(&self, sent: &Sent) -> bool {
        self.losses == sent.losses
    }

    /// A write was acknowledged.
    pub(super) fn wrote(&mut self, sent: &Sent, written: Written) {
        if self.unbroken(sent) {
            self.acked = self.acked.max(written);
        }
    }

    /// Whether writes were lost.
    pub(super) fn renewed(&mut self, sent: &Sent, renewed: &Renewed) -> bool {
        let lost = self.life != Some(renewed.life);
        if lost {
            self.losses += 1;
            self.life = Some(renewed.life);
            self.acked = renewed.written;
            self.gapless_since = None;
        } else {
            self.acked = self.acked.max(renewed.written);
        }
        self.until = self.until.max(Some(sent.at + HELD));
        if sent.connection == self.connection {
            self.gapless_since.get_or_insert(sent.at);
        }
        self.renew_at = sent.at + RENEW;
        self.rank = renewed.rank;
        self.newest = Some(renewed.newest.clone());
        lost
    }

    pub(super) fn renew_soon(&mut self, now: Duration) {
        self.renew_at = self.renew_at.min(now);
    }

    pub(super) fn failed(&mut self, now: Duration) {
        self.gapless_since = None;
        self.renew_at = now + RETRY;
    }

    pub(super) fn reconnected(&mut self, now: Duration) {
        self.connection += 1;
        self.gapless_since = None;
        self.renew_soon(now);
    }
}
