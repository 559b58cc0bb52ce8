//! The ends of a shell and of its session.

use std::{sync::Weak, time::Duration};

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, Exit, NoticeCode, ServerFrame},
    stream::OutputLog,
    times::UnixMs,
};

use crate::{
    client::Gone,
    effect::{Effect, End, PushKind},
    session::Session,
    timers::TimerTable,
};

impl Session {
    /// The shell has ended, and [`Session::handle_output`] has received all its output.
    pub fn handle_exit(&mut self, exit: Exit, now: Duration) {
        self.stale = true;
        self.exit = Some((exit, now));
    }

    /// [`Effect::StartShell`] succeeded. The streams start again from 0, and every client must attach again.
    pub fn handle_restarted(&mut self, now: Duration) {
        self.stale = true;
        self.restarting = false;
        self.restarts.started(now);
        self.restarted(self.unix_ms(now), now);
    }

    /// [`Effect::StartShell`] failed: the session ends.
    pub fn handle_restart_failed(&mut self) {
        self.end(End::ShellEnded);
    }

    /// The session ends at `expires_at` instead. Connections are notified again before that.
    pub fn handle_extend(&mut self, expires_at: UnixMs) {
        self.stale = true;
        self.expires = expires_at.saturating_since(self.started);
        for connection in self.connections.values_mut() {
            connection.expiry_announced = false;
        }
    }

    /// The backend is stopping.
    pub fn handle_drain(&mut self) {
        self.notify(NoticeCode::Draining, "the backend is stopping");
    }

    /// The session is deleted: it ends after an error frame to every connection.
    pub fn handle_end(&mut self) {
        self.end_with(ErrorCode::SessionInvalid, "the session has ended", End::Deleted);
    }

    /// Ends the session after an error frame to every connection.
    pub(crate) fn end_with(&mut self, code: ErrorCode, message: &str, end: End) {
        let last = ServerFrame::from(ErrorFrame::new(code, message)).to_json();
        for connection in std::mem::take(&mut self.connections).into_keys() {
            let last = Some(last.clone());
            self.effects.push_back(Effect::Close { connection, last, reason: Some(code) });
        }
        self.end(end);
    }

    /// Ends the session.
    pub(crate) fn end(&mut self, end: End) {
        if !std::mem::replace(&mut self.over, true) {
            self.timers = TimerTable::default();
            self.effects.push_back(Effect::End(end));
        }
    }

    /// Starts the streams of a new shell.
    pub(crate) fn restarted(&mut self, started: UnixMs, now: Duration) {
        self.epoch = self.epoch.next(started);
        self.log = OutputLog::new(self.settings.limits.output_buffer);
        self.model.restart(self.size, self.epoch);
        self.picture = Weak::new();
        self.exit = None;
        for (_, client) in self.clients.iter_mut() {
            client.discard_input();
            client.gone = client.gone.map(|gone| Gone { needs: None, ..gone });
        }
        let all: Vec<_> = self.connections.keys().cloned().collect();
        for id in &all {
            self.detach(id, now);
        }
        self.notify(NoticeCode::ShellRestarted, "a new shell was started");
    }

    /// Sends every connection a notice.
    pub(crate) fn notify(&mut self, code: NoticeCode, message: &str) {
        let frame = ServerFrame::Notice { code, message: message.to_owned() }.to_json();
        let all: Vec<_> = self.connections.keys().cloned().collect();
        for to in all {
            self.effects.push_back(Effect::Push { to, frame: frame.clone(), kind: PushKind::Other });
        }
    }

    /// Notifies every connection once that the session expires soon.
    pub(crate) fn expires_soon(&mut self) {
        let message = "the session expires soon".to_owned();
        let frame = ServerFrame::Notice { code: NoticeCode::SessionExpiring, message }.to_json();
        for (to, connection) in &mut self.connections {
            if !std::mem::replace(&mut connection.expiry_announced, true) {
                let effect = Effect::Push { to: to.clone(), frame: frame.clone(), kind: PushKind::Other };
                self.effects.push_back(effect);
            }
        }
    }
}
