//! Ends what dead instances leave: marks their sessions as gone, and has their connections told.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use shellbridge_protocol::ids::SessionId;

use crate::store::Request;

/// The instances whose sessions are being buried.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    /// Per instance, its sessions on the way, and whether a request about one of them has failed.
    active: BTreeMap<Arc<str>, (usize, bool)>,
    queue: VecDeque<Request>,
}

impl Reaper {
    pub(super) fn request(&mut self) -> Option<Request> {
        self.queue.pop_front()
    }

    /// An instance has died.
    pub(super) fn dead(&mut self, instance: &Arc<str>) {
        if !self.active.contains_key(instance) {
            self.active.insert(instance.clone(), (0, false));
            self.queue.push_back(Request::Reap { instance: instance.clone() });
        }
    }

    /// Some of its sessions; none if there are no more.
    pub(super) fn orphans(&mut self, instance: &Arc<str>, sessions: Vec<SessionId>) {
        if sessions.is_empty() {
            self.active.remove(instance);
            return;
        }
        self.active.insert(instance.clone(), (sessions.len(), false));
        let bury = |session| Request::Bury { instance: instance.clone(), session, epoch: None };
        self.queue.extend(sessions.into_iter().map(bury));
    }

    /// Marks a session of this process's earlier life as gone.
    pub(super) fn bury_own(&mut self, instance: &Arc<str>, session: SessionId, epoch: u64) {
        self.queue.push_back(Request::Bury { instance: instance.clone(), session, epoch: Some(epoch) });
    }

    /// The session's connections have been told.
    pub(super) fn forget(&mut self, instance: &Arc<str>, session: SessionId) {
        self.queue.push_back(Request::Forget { instance: instance.clone(), session });
    }

    /// A session is done with, or its request has failed. Asks for more after the last one. After a failure, the next
    /// renewal names the instance again.
    pub(super) fn done(&mut self, instance: &Arc<str>, failed: bool) {
        let Some((left, any_failed)) = self.active.get_mut(instance) else { return };
        *any_failed |= failed;
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        if *any_failed {
            self.active.remove(instance);
        } else {
            self.queue.push_back(Request::Reap { instance: instance.clone() });
        }
    }

    pub(super) fn abandon(&mut self, instance: &Arc<str>) {
        self.active.remove(instance);
    }
}
