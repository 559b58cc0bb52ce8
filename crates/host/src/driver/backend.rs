//! The messages exchanged with the backend.

use std::time::Duration;

use bytes::Bytes;
use shellbridge_protocol::{frame::ServerFrame, ids::ConnectionId};
use shellbridge_session::{
    ConnectionInfo, PushKind, Request, Sent,
    link::{
        Answer, Frame, FrameKind, FromHost, Here, Known, MAX_NOTES, Measure, Peer, Push, Reply, Taken, ToHost,
    },
};
use tokio::time::Instant;

use super::{About, Driver, LOOK};
use crate::{frame, link::Link, usage};

impl Driver {
    pub(super) fn message(&mut self, message: ToHost, now: Duration) {
        match message {
            ToHost::Connect(connect) => {
                let (connection, address) = (connect.peer.id.clone(), connect.peer.address.clone());
                let taken = self.session.handle_connect(connect.peer.into(), now).is_ok();
                if taken {
                    self.addresses.insert(connection.clone(), address);
                }
                self.say(Taken { request: connect.request, connection, taken });
            }
            ToHost::Frame(frame) => self.frame(frame, now),
            ToHost::Gone(gone) => {
                self.session.handle_gone(&gone.connection, now);
                self.addresses.remove(&gone.connection);
            }
            ToHost::Pushed(pushed) => {
                if let Some((to, kind)) = self.pushes.remove(&pushed.push) {
                    self.session.handle_pushed(&to, kind, pushed.sent, now);
                }
            }
            ToHost::Checked(checked) => self.session.handle_checked(&checked.connection, checked.exists, now),
            ToHost::Extend(extend) => self.session.handle_extend(extend.expires_at),
            ToHost::Revoke(revoke) => {
                let stale = |info: &ConnectionInfo| revoke.connections.contains(&info.id);
                self.session.handle_revoked(Duration::from_millis(revoke.wait), now, stale);
            }
            ToHost::Keep(keep) => {
                if keep.notes.len() <= MAX_NOTES {
                    self.notes = keep.notes;
                }
            }
            ToHost::Drain(_) => self.session.handle_drain(),
            ToHost::End(_) => self.session.handle_end(),
            ToHost::Measure(measure) => self.measure(&measure),
            ToHost::Hello(_) => {}
        }
    }

    /// Starts a measurement, unless one is pending: that one then answers this request.
    fn measure(&mut self, measure: &Measure) {
        if let Some((request, _)) = &mut self.measuring {
            *request = measure.request;
            return;
        }
        // Fails if no thread can be started. The backend then does without.
        self.measuring = usage::measure(measure, self.spec.env.get("HOME").cloned())
            .ok()
            .map(|measured| (measure.request, measured));
    }

    fn frame(&mut self, frame: Frame, now: Duration) {
        let (received, reply) = match frame::read(&frame) {
            Err(error) => (FrameKind::MALFORMED, frame::answer(&error.into())),
            Ok(read) => {
                let received = FrameKind::from(&read);
                let (id, address) = (frame.peer.id.clone(), frame.peer.address);
                let number = self.next_request;
                self.next_request += 1;
                let request = Request { number, message_id: frame.message_id };
                let info = Peer { address: String::new(), ..frame.peer }.into();
                let reply = frame::reply(self.session.handle_frame(info, read, request, now), &frame.body);
                if !self.addresses.contains_key(&id) && self.session.has(&id) {
                    self.addresses.insert(id.clone(), address);
                }
                if reply == Reply::Later {
                    self.requests.insert(number, (received, frame.request));
                }
                let has = self.session.has(&id);
                return self.say(Answer { request: frame.request, received, has, reply });
            }
        };
        let has = self.session.has(&frame.peer.id);
        self.say(Answer { request: frame.request, received, has, reply });
    }

    /// Answers a request, by a push if its backend is gone.
    pub(super) fn answer(&mut self, request: u64, to: ConnectionId, frame: Option<ServerFrame>) {
        match (self.requests.remove(&request), frame) {
            (Some((received, request)), frame) => {
                let has = self.session.has(&to);
                let reply = frame.as_ref().map_or(Reply::Nothing, frame::answer);
                self.say(Answer { request, received, has, reply });
            }
            (None, Some(frame)) => self.push(to, frame.to_json(), PushKind::Other),
            (None, None) => {}
        }
    }

    pub(super) fn push(&mut self, to: ConnectionId, frame: Bytes, kind: PushKind) {
        if !self.greeted || self.link.is_none() {
            return;
        }
        let push = self.next_push;
        self.next_push += 1;
        let replaceable = kind == PushKind::Other;
        self.say(Push { push, to: to.clone(), frame, replaceable });
        self.pushes.insert(push, (to, kind));
    }

    pub(super) fn say(&mut self, message: impl Into<FromHost>) {
        if let Some(link) = &mut self.link {
            link.say(message);
        }
    }

    /// Sends the session's connections and state to a backend.
    pub(super) fn greet(&mut self, link: &mut Link, (id, owner): &About) {
        for info in self.session.connections() {
            let address = self.addresses.get(&info.id).cloned().unwrap_or_default();
            link.say(Known { peer: Peer::new(info.clone(), address) });
        }
        link.say(Here {
            id: id.clone(),
            owner: owner.clone(),
            created_at: self.created_at,
            epoch: self.session.epoch(),
            expires_at: self.session.expires_at(),
            output: self.session.output_offset(),
            exited: self.session.status().exited,
            notes: self.notes.clone(),
        });
        self.greeted = true;
        self.told = None;
    }

    /// Handles the loss of the backend: the outcome of every push in flight is unknown.
    pub(super) fn lose(&mut self, now: Duration) {
        self.link = None;
        self.look_at = Instant::now() + LOOK;
        self.greeted = false;
        self.requests.clear();
        self.session.handle_reachable(false);
        for (_, (to, kind)) in std::mem::take(&mut self.pushes) {
            self.session.handle_pushed(&to, kind, Sent::Unknown, now);
        }
    }
}
