//! The sessions of this instance, and what the store knows about them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::{
    ids::{ConnectionId, SessionId, UserId},
    times::UnixMs,
};

use super::lease::Lease;
use crate::{
    effect::{Effect, Refused},
    limits::{BATCH, MAX_CONNECTIONS},
    store::{Asserted, Request},
};

/// A session that is about to be claimed, or that an earlier process had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Its id.
    pub session: SessionId,
    /// Its owner.
    pub owner: UserId,
    /// When it ends.
    pub expires_at: UnixMs,
}

#[derive(Debug)]
struct Session {
    owner: UserId,
    expires_at: UnixMs,
    /// 0: unknown.
    epoch: u64,
    state: State,
    /// [`Effect::Claimed`] is due.
    asked: bool,
    /// The entry in the store is older than `expires_at`.
    stale: bool,
    connections: Vec<(ConnectionId, Arc<str>)>,
    /// The connections in the store are others.
    moved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be claimed. `fresh`: no one else can know the id.
    Wanted {
        fresh: bool,
    },
    Claiming,
    Unconfirmed,
    Asserting,
    Confirmed,
}

/// The sessions of this instance.
#[derive(Debug, Default)]
pub(super) struct Registry {
    sessions: BTreeMap<SessionId, Session>,
    releases: VecDeque<(SessionId, u64)>,
}

impl Registry {
    pub(super) fn has(&self, session: &SessionId) -> bool {
        self.sessions.contains_key(session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn confirmed(&self, session: &SessionId) -> bool {
        self.sessions.get(session).is_some_and(|known| known.state == State::Confirmed)
    }

    /// Whether a claim waits for its request to be sent.
    pub(super) fn waits(&self) -> bool {
        self.sessions.values().any(|known| matches!(known.state, State::Wanted { .. }))
    }

    pub(super) fn released(&self) -> bool {
        self.releases.is_empty()
    }

    pub(super) fn want(&mut self, new: NewSession, fresh: bool) {
        self.insert(new, State::Wanted { fresh }, true);
    }

    pub(super) fn take_over(&mut self, new: NewSession) {
        self.insert(new, State::Unconfirmed, false);
    }

    fn insert(&mut self, NewSession { session, owner, expires_at }: NewSession, state: State, asked: bool) {
        let new = Session {
            owner,
            expires_at,
            epoch: 0,
            state,
            asked,
            stale: false,
            connections: Vec::new(),
            moved: false,
        };
        self.sessions.insert(session, new);
    }

    /// The session has ended. Returns whether its entry in the store, if there is one, has an unknown epoch.
    pub(super) fn end(&mut self, session: &SessionId) -> bool {
        let Some(known) = self.sessions.remove(session) else { return false };
        if known.epoch > 0 {
            self.releases.push_back((session.clone(), known.epoch));
        }
        known.epoch == 0 && matches!(known.state, State::Unconfirmed | State::Asserting)
    }

    pub(super) fn extend(&mut self, session: &SessionId, expires_at: UnixMs) {
        if let Some(known) = self.sessions.get_mut(session) {
            known.expires_at = expires_at;
            known.stale = true;
            known.moved |= !known.connections.is_empty();
        }
    }

    pub(super) fn connections(&mut self, session: &SessionId, mut of: Vec<(ConnectionId, Arc<str>)>) {
        of.truncate(MAX_CONNECTIONS);
        if let Some(known) = self.sessions.get_mut(session)
            && known.connections != of
        {
            known.connections = of;
            known.moved = true;
        }
    }

    /// The next request about a session of this instance.
    pub(super) fn request(&mut self, lease: &Lease, now: Duration) -> Option<Request> {
        let under = lease.under(now)?;
        let settled = lease.settled(now);
        let batch: Vec<_> = self
            .sessions
            .iter_mut()
            .filter(|(_, known)| {
                known.state == State::Unconfirmed || (known.stale && known.state == State::Confirmed)
            })
            .take(BATCH)
            .map(|(session, known)| {
                if known.state == State::Unconfirmed {
                    known.state = State::Asserting;
                }
                known.stale = false;
                let Session { epoch, ref owner, expires_at, .. } = *known;
                Asserted { session: session.clone(), epoch, owner: owner.clone(), expires_at }
            })
            .collect();
        if !batch.is_empty() {
            return Some(Request::Assert { under, sessions: batch });
        }
        let wanted = |known: &Session| matches!(known.state, State::Wanted { fresh } if fresh || settled);
        if let Some((session, known)) = self.sessions.iter_mut().find(|(_, known)| wanted(known)) {
            known.state = State::Claiming;
            let (session, owner, expires_at) = (session.clone(), known.owner.clone(), known.expires_at);
            return Some(Request::Claim { under, session, owner, expires_at });
        }
        let moved = |known: &Session| known.moved && known.state == State::Confirmed;
        if let Some((session, known)) = self.sessions.iter_mut().find(|(_, known)| moved(known)) {
            known.moved = false;
            let (session, connections) = (session.clone(), known.connections.clone());
            return Some(Request::Connections { under, session, connections, expires_at: known.expires_at });
        }
        self.releases.pop_front().map(|(session, epoch)| Request::Release { session, epoch })
    }

    /// No session is certain any more.
    pub(super) fn unconfirm_all(&mut self, effects: &mut VecDeque<Effect>) {
        for (session, known) in &mut self.sessions {
            known.moved = !known.connections.is_empty();
            if known.state == State::Confirmed {
                known.state = State::Unconfirmed;
                effects.push_back(Effect::Unconfirmed(session.clone()));
            }
        }
    }

    /// The store has registered a session. `certain`: no write has been lost since.
    pub(super) fn claimed(
        &mut self,
        session: SessionId,
        epoch: u64,
        certain: bool,
        effects: &mut VecDeque<Effect>,
    ) {
        match self.sessions.get_mut(&session) {
            Some(known) if known.state == State::Claiming => {
                known.epoch = epoch;
                known.state = State::Unconfirmed;
                if certain {
                    self.confirm(&session, epoch, effects);
                }
            }
            // It was given up meanwhile.
            _ => self.releases.push_back((session, epoch)),
        }
    }

    pub(super) fn refuse(&mut self, session: SessionId, refused: Refused, effects: &mut VecDeque<Effect>) {
        if self.sessions.get(&session).is_some_and(|known| known.state == State::Claiming) {
            self.sessions.remove(&session);
            effects.push_back(Effect::Claimed(session, Err(refused)));
        }
    }

    /// Outcome of an assertion; `None`: the store did not answer, or writes have been lost since.
    pub(super) fn asserted(
        &mut self,
        sessions: Vec<Asserted>,
        outcomes: Option<Vec<Option<u64>>>,
        effects: &mut VecDeque<Effect>,
    ) {
        let mut outcomes = outcomes.map(Vec::into_iter);
        for Asserted { session, epoch: asserted, .. } in sessions {
            let outcome = outcomes.as_mut().map(Iterator::next);
            let Some(known) = self.sessions.get_mut(&session) else {
                // It ended meanwhile. Its entry is released by epoch; with an unknown one, here.
                if let (0, Some(Some(Some(epoch)))) = (asserted, outcome) {
                    self.releases.push_back((session, epoch));
                }
                continue;
            };
            if known.epoch != asserted || matches!(known.state, State::Wanted { .. } | State::Claiming) {
                // Another session of the same id.
                continue;
            }
            match outcome {
                Some(Some(Some(epoch))) => self.confirm(&session, epoch, effects),
                Some(Some(None)) => self.lose(session, effects),
                // The answer is shorter than the question, or there is none.
                Some(None) | None => match known.state {
                    State::Asserting => known.state = State::Unconfirmed,
                    _ => known.stale = true,
                },
            }
        }
    }

    fn confirm(&mut self, session: &SessionId, epoch: u64, effects: &mut VecDeque<Effect>) {
        let Some(known) = self.sessions.get_mut(session) else { return };
        known.epoch = epoch;
        if known.state != State::Confirmed {
            known.state = State::Confirmed;
            effects.push_back(Effect::Confirmed(session.clone()));
        }
        if std::mem::take(&mut known.asked) {
            effects.push_back(Effect::Claimed(session.clone(), Ok(())));
        }
    }

    fn lose(&mut self, session: SessionId, effects: &mut VecDeque<Effect>) {
        let Some(known) = self.sessions.remove(&session) else { return };
        effects.push_back(if known.asked {
            Effect::Claimed(session, Err(Refused::Taken))
        } else {
            Effect::Lost(session)
        });
    }

    /// Stores the connections at the next occasion.
    pub(super) fn connections_failed(&mut self, session: &SessionId) {
        if let Some(known) = self.sessions.get_mut(session) {
            known.moved = true;
        }
    }

    pub(super) fn release_failed(&mut self, session: SessionId, epoch: u64) {
        self.releases.push_back((session, epoch));
    }
}
