//! A model of the store: what its scripts do, with expiry, and with writes that a failover loses.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use shellbridge_protocol::ids::{ConnectionId, SessionId};

use crate::{
    limits::{BATCH, LEASE, REAPING},
    store::{Asserted, Found, Member, Orphans, Renewed, Reply, Request, Under, Written},
};

/// Snapshots kept, one per write.
const HISTORY: usize = 8;

#[derive(Debug, Clone, Default)]
struct Data {
    epoch: u64,
    leases: BTreeMap<Arc<str>, Lease>,
    entries: BTreeMap<SessionId, Entry>,
    of: BTreeMap<Arc<str>, BTreeSet<SessionId>>,
    connections: BTreeMap<SessionId, Vec<(ConnectionId, Arc<str>)>>,
    seen: BTreeMap<Arc<str>, u64>,
    reapers: BTreeMap<Arc<str>, (Arc<str>, u64)>,
}

#[derive(Debug, Clone)]
struct Lease {
    generation: u64,
    life: u64,
    written: u64,
    url: Arc<str>,
    until: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    instance: Arc<str>,
    epoch: u64,
    buried: bool,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    data: Data,
    history: VecDeque<Data>,
    /// Of all epochs handed out, lost ones included.
    highest_epoch: u64,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

impl Store {
    /// The replica that takes over misses the last writes.
    pub(super) fn fail_over(&mut self, lost: usize) {
        for _ in 0..lost {
            if let Some(earlier) = self.history.pop_back() {
                self.data = earlier;
            }
        }
        self.history.clear();
    }

    pub(super) fn flush(&mut self) {
        self.data = Data::default();
        self.history.clear();
    }

    pub(super) fn owner(&self, session: &SessionId) -> Option<&Arc<str>> {
        self.data.entries.get(session).filter(|entry| !entry.buried).map(|entry| &entry.instance)
    }

    pub(super) fn apply(&mut self, from: &Member, request: Request, now: u64) -> Reply {
        self.data.leases.retain(|_, lease| now < lease.until);
        self.data.reapers.retain(|_, (_, until)| now < *until);
        if !matches!(request, Request::Find { .. } | Request::Peer { .. }) {
            self.history.push_back(self.data.clone());
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.data.apply(from, request, now, &mut self.highest_epoch)
    }
}

impl Data {
    fn next_epoch(&mut self, now: u64, highest: &mut u64) -> u64 {
        self.epoch = (self.epoch + 1).max(now);
        // Within a millisecond, a failover may hand out an epoch again.
        assert!(self.epoch + HISTORY as u64 > *highest, "epochs only rise");
        *highest = (*highest).max(self.epoch);
        self.epoch
    }

    fn holds(&self, from: &Member, under: Under) -> bool {
        let lease = self.leases.get(&from.uuid);
        lease.is_some_and(|lease| {
            lease.generation == from.generation
                && lease.life == under.life
                && lease.written >= under.written.0
        })
    }

    /// Counts a write under the sender's lease, if that is the one it means.
    fn write(&mut self, from: &Member, under: Under) -> Option<Written> {
        if !self.holds(from, under) {
            return None;
        }
        let lease = self.leases.get_mut(&from.uuid)?;
        lease.written += 1;
        Some(Written(lease.written))
    }

    fn apply(&mut self, from: &Member, request: Request, now: u64, highest: &mut u64) -> Reply {
        match request {
            Request::Renew(under) => self.renew(from, under, now, highest),
            Request::Claim { under, session, .. } => {
                let Some(written) = self.write(from, under) else { return Reply::NoLease };
                let free = self
                    .entries
                    .get(&session)
                    .is_none_or(|entry| entry.buried || entry.instance == from.uuid);
                if !free {
                    return Reply::Taken;
                }
                let epoch = self.next_epoch(now, highest);
                self.register(from, &session, epoch);
                Reply::Claimed { epoch, written }
            }
            Request::Assert { under, sessions } => {
                let Some(written) = self.write(from, under) else { return Reply::NoLease };
                let assert = |asserted| self.assert(from, asserted, now, highest);
                Reply::Asserted(sessions.into_iter().map(assert).collect(), written)
            }
            Request::Connections { under, session, connections, .. } => {
                if self.write(from, under).is_some() {
                    self.connections.insert(session, connections);
                }
                Reply::Done
            }
            Request::Release { session, epoch } => {
                let same =
                    |entry: &Entry| entry.instance == from.uuid && entry.epoch == epoch && !entry.buried;
                if self.entries.get(&session).is_some_and(same) {
                    self.entries.remove(&session);
                    self.connections.remove(&session);
                    self.of.entry(from.uuid.clone()).or_default().remove(&session);
                }
                Reply::Done
            }
            Request::Find { under, .. } if !self.holds(from, under) => Reply::NoLease,
            Request::Find { session, .. } => Reply::Found(match self.entries.get(&session) {
                None => Found::Absent,
                Some(entry) if entry.buried => Found::Buried,
                Some(entry) => match self.leases.get(&entry.instance) {
                    None => Found::Ownerless,
                    Some(lease) => {
                        let (instance, url) = (entry.instance.clone(), lease.url.clone());
                        Found::At { instance, url, epoch: entry.epoch }
                    }
                },
            }),
            Request::Peer { .. } => Reply::Peer(None),
            Request::Reap { instance } => Reply::Orphans(self.reap(from, &instance, now)),
            Request::Bury { instance, session, epoch } => {
                let may = epoch.is_some() || !self.leases.contains_key(&instance);
                let Some(entry) = self.entries.get_mut(&session).filter(|entry| {
                    may && entry.instance == instance && epoch.is_none_or(|epoch| entry.epoch == epoch)
                }) else {
                    return Reply::Buried(Vec::new());
                };
                entry.buried = true;
                Reply::Buried(self.connections.get(&session).cloned().unwrap_or_default())
            }
            Request::Forget { instance, session } => {
                let entry = self.entries.get(&session);
                if entry.is_none_or(|entry| entry.buried || entry.instance != instance) {
                    self.of.entry(instance).or_default().remove(&session);
                }
                if entry.is_none_or(|entry| entry.buried) {
                    self.connections.remove(&session);
                }
                Reply::Done
            }
            Request::Leave => {
                if self.leases.get(&from.uuid).is_some_and(|lease| lease.generation == from.generation) {
                    self.leases.remove(&from.uuid);
                }
                Reply::Done
            }
        }
    }

    fn renew(&mut self, from: &Member, under: Option<Under>, now: u64, highest: &mut u64) -> Reply {
        let lease = self.leases.get(&from.uuid);
        if lease.is_some_and(|lease| lease.generation > from.generation) {
            return Reply::Superseded;
        }
        let own = lease.filter(|_| under.is_some_and(|under| self.holds(from, under)));
        let (life, written) = match own {
            Some(lease) => (lease.life, lease.written + 1),
            None => (self.next_epoch(now, highest), 1),
        };
        let lease = Lease {
            generation: from.generation,
            life,
            written,
            url: from.url.clone(),
            until: now + ms(LEASE),
        };
        self.leases.insert(from.uuid.clone(), lease);
        self.seen.insert(from.uuid.clone(), now);
        let dead = self.seen.iter().filter(|(_, at)| *at + ms(LEASE) < now).map(|(uuid, _)| uuid.clone());
        let (dead, newest) = (dead.collect(), (1, from.release.clone()));
        Reply::Renewed(Renewed { life, written: Written(written), rank: 1, newest, dead })
    }

    fn register(&mut self, from: &Member, session: &SessionId, epoch: u64) {
        let entry = Entry { instance: from.uuid.clone(), epoch, buried: false };
        self.entries.insert(session.clone(), entry);
        self.connections.remove(session);
        self.of.entry(from.uuid.clone()).or_default().insert(session.clone());
    }

    fn assert(&mut self, from: &Member, asserted: Asserted, now: u64, highest: &mut u64) -> Option<u64> {
        let Asserted { session, epoch, .. } = asserted;
        let epoch = match self.entries.get(&session) {
            None if epoch == 0 => self.next_epoch(now, highest),
            Some(entry) if entry.instance == from.uuid && !entry.buried => epoch.max(entry.epoch),
            Some(entry) if epoch <= entry.epoch => return None,
            // Lost, or left over from before the claim: a failover lost its release.
            None | Some(_) => epoch,
        };
        self.epoch = self.epoch.max(epoch);
        let connections = self.connections.remove(&session);
        self.register(from, &session, epoch);
        self.connections.extend(connections.map(|connections| (session, connections)));
        Some(epoch)
    }

    fn reap(&mut self, from: &Member, instance: &Arc<str>, now: u64) -> Orphans {
        let own = *instance == from.uuid;
        if !own {
            let other = self.reapers.get(instance).is_some_and(|(reaper, _)| *reaper != from.uuid);
            if other || self.leases.contains_key(instance) {
                return Orphans::NotYours;
            }
            self.reapers.insert(instance.clone(), (from.uuid.clone(), now + ms(REAPING)));
        }
        let sessions: Vec<_> = self
            .of
            .get(instance)
            .into_iter()
            .flatten()
            .take(if own { usize::MAX } else { BATCH })
            .cloned()
            .collect();
        if sessions.is_empty() && !own {
            self.seen.remove(instance);
            self.of.remove(instance);
        }
        Orphans::Some(sessions)
    }
}
