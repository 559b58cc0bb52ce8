//! What the store's answers mean.

use std::time::Duration;

use super::{Fleet, Leave, lease::Sent};
use crate::{
    effect::{Effect, Place, Refused},
    limits::RETRY,
    store::{Failed, Found, Orphans, Renewed, Reply, Request, RequestId},
};

impl Fleet {
    /// The outcome of a request. A late one, or one that does not fit its request, counts as a failure.
    pub fn handle_reply(&mut self, id: RequestId, reply: Result<Reply, Failed>, now: Duration) {
        let Some((request, sent)) = self.in_flight.remove(&id) else { return };
        if self.lease.renewing == Some(id) {
            self.lease.renewing = None;
        }
        if matches!(reply, Ok(Reply::NoLease)) {
            self.lease.renew_soon(now);
        }
        match request {
            Request::Renew(_) => match reply {
                Ok(Reply::Renewed(renewed)) => self.renewed(&sent, &renewed, now),
                Ok(Reply::Superseded) => {
                    self.lease.superseded = true;
                    self.registry.unconfirm_all(&mut self.effects);
                    self.effects.push_back(Effect::Superseded);
                }
                _ => self.lease.failed(now),
            },
            Request::Claim { session, .. } => match reply {
                Ok(Reply::Claimed { epoch, written }) => {
                    let certain = self.lease.unbroken(&sent);
                    self.lease.wrote(&sent, written);
                    self.registry.claimed(session, epoch, certain, &mut self.effects);
                }
                Ok(Reply::Taken) => self.registry.refuse(session, Refused::Taken, &mut self.effects),
                _ => {
                    self.registry.refuse(session, Refused::NoStore, &mut self.effects);
                    self.pause(&reply, now);
                }
            },
            Request::Assert { sessions, .. } => {
                let outcomes = match reply {
                    Ok(Reply::Asserted(outcomes, written)) if self.lease.unbroken(&sent) => {
                        self.lease.wrote(&sent, written);
                        Some(outcomes)
                    }
                    _ => {
                        self.pause(&reply, now);
                        None
                    }
                };
                self.registry.asserted(sessions, outcomes, &mut self.effects);
            }
            Request::Connections { session, .. } => {
                if !matches!(reply, Ok(Reply::Done)) {
                    self.registry.connections_failed(&session);
                    self.pause(&reply, now);
                }
            }
            Request::Release { session, epoch } => {
                if reply.is_err() {
                    self.registry.release_failed(session, epoch);
                    self.pause(&reply, now);
                }
            }
            Request::Find { session, .. } => {
                self.lookups.answered(&session);
                let place = match reply {
                    Ok(Reply::Found(found)) => self.found(&session, found, &sent, now),
                    _ => Place::Unknown,
                };
                self.effects.push_back(Effect::Found(session, place));
            }
            Request::Peer { .. } => {
                let url = if let Ok(Reply::Peer(url)) = reply { url } else { None };
                self.effects.push_back(Effect::Peer(url));
            }
            Request::Reap { instance } => match reply {
                Ok(Reply::Orphans(Orphans::Some(sessions))) if instance == self.me.uuid => {
                    self.reaper.abandon(&instance);
                    for session in sessions.into_iter().filter(|session| !self.registry.has(session)) {
                        self.lookups.ask(&session);
                    }
                }
                Ok(Reply::Orphans(Orphans::Some(sessions))) => self.reaper.orphans(&instance, sessions),
                _ => {
                    self.reaper.abandon(&instance);
                    self.pause(&reply, now);
                    if instance == self.me.uuid {
                        self.reaper.dead(&instance);
                    }
                }
            },
            Request::Bury { instance, session, .. } => match reply {
                Ok(Reply::Buried(connections)) if connections.is_empty() => {
                    self.reaper.forget(&instance, session);
                }
                Ok(Reply::Buried(connections)) => {
                    self.effects.push_back(Effect::Farewell { instance, session, connections });
                }
                _ => {
                    self.reaper.done(&instance, true);
                    self.pause(&reply, now);
                }
            },
            Request::Forget { instance, .. } => {
                self.reaper.done(&instance, reply.is_err());
                self.pause(&reply, now);
            }
            Request::Leave => self.leave = Leave::Left,
        }
    }

    fn renewed(&mut self, sent: &Sent, renewed: &Renewed, now: Duration) {
        if self.lease.renewed(sent, renewed) {
            self.registry.unconfirm_all(&mut self.effects);
        }
        if let Some(until) = self.lease.until() {
            self.effects.push_back(Effect::Leased { until });
        }
        if self.lease.settled(now) {
            for instance in renewed.dead.iter().filter(|instance| **instance != self.me.uuid) {
                self.reaper.dead(instance);
            }
        }
    }

    fn found(
        &mut self,
        session: &shellbridge_protocol::ids::SessionId,
        found: Found,
        sent: &Sent,
        now: Duration,
    ) -> Place {
        match found {
            Found::At { instance, epoch, .. } if instance == self.me.uuid => {
                // An entry without a session: its process died before or after it had one.
                if self.taken_over && !self.registry.has(session) {
                    self.reaper.bury_own(&instance, session.clone(), epoch);
                }
                Place::Unknown
            }
            Found::At { url, .. } => {
                self.lookups.learn(session, &url, now);
                Place::At(url)
            }
            Found::Buried => Place::Nowhere,
            Found::Absent if sent.settled => Place::Nowhere,
            Found::Ownerless | Found::Absent => Place::Unknown,
        }
    }

    /// Spares a store that does not answer.
    fn pause(&mut self, reply: &Result<Reply, Failed>, now: Duration) {
        if !matches!(reply, Ok(reply) if *reply != Reply::NoLease) {
            self.paused_until = now + RETRY;
        }
    }
}
