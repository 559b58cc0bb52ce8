//! Look-ups of other instances' sessions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::ids::SessionId;

use crate::{
    limits::{CACHED, MAX_CACHED},
    store::{Request, Under},
};

/// Look-ups, with a cache of positive answers.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    cache: BTreeMap<SessionId, (Arc<str>, Duration)>,
    /// In the queue, or on the way.
    asked: BTreeSet<SessionId>,
    queue: VecDeque<SessionId>,
}

impl Lookups {
    pub(super) fn known(&self, session: &SessionId, now: Duration) -> Option<Arc<str>> {
        self.cache.get(session).filter(|(_, until)| now < *until).map(|(url, _)| url.clone())
    }

    pub(super) fn ask(&mut self, session: &SessionId) {
        if self.asked.insert(session.clone()) {
            self.queue.push_back(session.clone());
        }
    }

    pub(super) fn request(&mut self, under: Under) -> Option<Request> {
        self.queue.pop_front().map(|session| Request::Find { under, session })
    }

    /// Takes all look-ups that are not on the way.
    pub(super) fn waiting(&mut self) -> Vec<SessionId> {
        let waiting: Vec<_> = self.queue.drain(..).collect();
        for session in &waiting {
            self.asked.remove(session);
        }
        waiting
    }

    pub(super) fn answered(&mut self, session: &SessionId) {
        self.asked.remove(session);
    }

    pub(super) fn learn(&mut self, session: &SessionId, url: &Arc<str>, now: Duration) {
        if self.cache.len() >= MAX_CACHED {
            self.cache.retain(|_, (_, until)| now < *until);
        }
        if self.cache.len() < MAX_CACHED {
            self.cache.insert(session.clone(), (url.clone(), now + CACHED));
        }
    }

    pub(super) fn forget(&mut self, session: &SessionId) {
        self.cache.remove(session);
    }
}
