//! What is due: output, acknowledgements, probes and expiry; and flow control of the shell.

use std::time::Duration;

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::{ClientId, ConnectionId},
    limits::{CHECK_AFTER, INPUT_ACK_WITHIN},
    size::Size,
};

use crate::{
    connection::{Attachment, Connection, ExitFrame},
    effect::{Effect, End, PushKind},
    session::Session,
    snapshot::Snapshot,
    timers::Timer,
};

/// Input is acknowledged after this unless output does so earlier. The rest of [`INPUT_ACK_WITHIN`] is for the network.
const INPUT_ACK_AFTER: Duration = INPUT_ACK_WITHIN.checked_div(2).expect("two is not zero");
/// Bytes of one write to the PTY, whose buffer holds one page.
const MAX_WRITE: usize = 4096;
/// How long before it expires a session notifies its clients.
const EXPIRY_NOTICE: Duration = Duration::from_mins(5);

impl Session {
    /// Number of bytes that may be read from the shell now. Only writers hold it back: the one that is least behind or, if
    /// none is connected, those lost recently.
    pub fn read_allowance(&self, now: Duration) -> usize {
        let room = |c: &Connection, a: &Attachment| {
            let behind = self.log.end().saturating_sub(a.window.acked());
            (!c.info.read_only && !self.counts_as_lost(a, now))
                .then(|| self.settings.limits.output_window.saturating_sub(behind))
        };
        let best = self.connections.values().filter_map(|c| room(c, c.attachment.as_ref()?)).max();
        let room =
            match (best, self.clients.waited_for(now, self.settings.limits.resume_grace, self.log.start())) {
                (Some(room), _) => usize::try_from(room).unwrap_or(usize::MAX),
                (None, Some(needs)) => self.log.room_before(needs),
                (None, None) => usize::MAX,
            };
        // The screen model holds it back too, for the duration of a turn.
        room.min(self.model.room(&self.log))
    }

    /// Input to write to the shell now: the client and the bytes. Clients take turns.
    pub fn poll_write(&self) -> Option<(ClientId, Vec<u8>)> {
        self.clients
            .iter()
            .map(|(id, client)| (client.wrote, id, client.input.ready().0))
            .filter(|(_, _, bytes)| !bytes.is_empty())
            .min_by_key(|(wrote, _, _)| *wrote)
            .map(|(_, id, bytes)| (id.clone(), bytes.iter().copied().take(MAX_WRITE).collect()))
    }

    /// The shell has read `count` bytes of this client's input, which may now be acknowledged.
    pub fn handle_written(&mut self, client_id: &ClientId, count: usize, now: Duration) {
        self.stale = true;
        let Some(client) = self.clients.get_mut(client_id) else { return };
        client.input.consume(count);
        self.writes += 1;
        client.wrote = self.writes;
        if let Some(holder) = &client.holder
            && let Some(attachment) = self.connections.get_mut(holder).and_then(|c| c.attachment.as_mut())
        {
            attachment.input_ack_at.get_or_insert(now + INPUT_ACK_AFTER);
        }
    }

    /// Does everything that is due and sets every timer.
    pub(crate) fn advance(&mut self, now: Duration) {
        if self.over {
            return;
        }
        self.commands.start(&mut self.effects);
        let restart = if self.is_over(now) {
            if !self.settings.shell_restart {
                self.end(End::ShellEnded);
                return;
            }
            let wait = Some(self.restarts.at).filter(|at| *at > now);
            if wait.is_none() && !std::mem::replace(&mut self.restarting, true) {
                self.effects.push_back(Effect::StartShell);
            }
            wait
        } else {
            None
        };
        if now >= self.expires {
            self.end_with(ErrorCode::SessionExpired, "the session has expired", End::Expired);
            return;
        }
        let notice = self.expires.saturating_sub(EXPIRY_NOTICE);
        if now >= notice && self.reachable {
            self.expires_soon();
        }
        self.timers.set(Timer::Restart, restart);
        self.timers.set(Timer::Expiry, Some(if now < notice { notice } else { self.expires }));
        let (due, gaps) = if self.reachable {
            let ids: Vec<_> = self.connections.keys().cloned().collect();
            let due = ids.iter().filter_map(|id| self.tick_connection(id, now)).min();
            (due, self.tick_gaps(now))
        } else {
            (self.tick_unreachable(now), None)
        };
        self.timers.set(Timer::Connections, due);
        self.timers.set(Timer::Gaps, gaps);
        let grace = self.settings.limits.resume_grace;
        self.timers.set(Timer::Grace, self.clients.wait_ends(now, grace));
        // After that, the session waits for another timer, such as the restart.
        let exit = self.exit.as_ref().map(|(_, since)| *since + grace).filter(|due| *due > now);
        self.timers.set(Timer::Exit, exit);
        let model = match self.model.next(&self.log, now) {
            Some(work) => {
                self.effects.push_back(Effect::Follow(work));
                None
            }
            None => self.model.due(now),
        };
        self.timers.set(Timer::Model, model);
        let detached = if self.connections.is_empty() || !self.reachable {
            Some(*self.detached_since.get_or_insert(now) + self.settings.detached_ttl)
        } else {
            self.detached_since = None;
            None
        };
        self.timers.set(Timer::Detached, detached);
        if detached.is_some_and(|at| at <= now) {
            self.end(End::Detached);
        }
    }

    /// Whether the shell has ended and every client knows, or has had the time to learn it.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        let Some((_, since)) = &self.exit else { return false };
        let knows = |connection: &Connection| {
            connection
                .attachment
                .as_ref()
                .is_some_and(|a| a.exit == ExitFrame::Delivered && a.window.acked() == self.log.end())
        };
        let waiting = self.clients.any_unaware(now, self.settings.limits.resume_grace, self.log.end());
        now >= *since + self.settings.limits.resume_grace
            || (!waiting && self.connections.values().all(knows))
    }

    /// Whether a connected client has been behind for `RESUME_GRACE` without an acknowledgement, and so holds nothing back.
    fn counts_as_lost(&self, attachment: &Attachment, now: Duration) -> bool {
        attachment.behind_since.is_some_and(|since| now >= since + self.settings.limits.resume_grace)
    }

    fn tick_connection(&mut self, id: &ConnectionId, now: Duration) -> Option<Duration> {
        let timestamp = self.unix_ms(now);
        let Session {
            settings, epoch, log, model, picture, size, exit, connections, clients, effects, ..
        } = self;
        let connection = connections.get_mut(id)?;
        if now >= connection.expires {
            let error = ErrorFrame::new(ErrorCode::TokenExpired, "the token has expired or was revoked");
            self.end_connection(id, error, now);
            return None;
        }
        if now >= connection.heard + CHECK_AFTER {
            connection.heard = now;
            effects.push_back(Effect::Check(id.clone()));
        }
        let due = connection.expires.min(connection.heard + CHECK_AFTER);
        let read_only = connection.info.read_only;
        // One at a time, so that the newest size arrives last and none queue up on a slow connection.
        if connection.attachment.is_some()
            && !connection.size_in_flight
            && connection.announced_size != Some(*size)
        {
            connection.announced_size = Some(*size);
            connection.size_in_flight = true;
            let Size { cols, rows } = *size;
            let frame = ServerFrame::ResizeAck { cols, rows, timestamp }.to_json();
            effects.push_back(Effect::Push { to: id.clone(), frame, kind: PushKind::Size });
        }
        let Some(attachment) = &mut connection.attachment else { return Some(due) };
        let input =
            (!read_only).then(|| clients.get(&attachment.client_id).map_or(0, |c| c.input.consumed()));

        let end = log.end();
        if attachment.window.sendable(end) > 0 {
            attachment.bridge_gap(log, || model.picture(picture, end, *size));
        }
        while let Some(frame) =
            attachment.next_frame(connection.in_flight, connection.info.limits, log, *epoch, input, now)
        {
            connection.in_flight += 1;
            effects.push_back(Effect::Push { to: id.clone(), frame, kind: PushKind::Output });
        }
        let all_sent =
            attachment.window.sent() == end && attachment.snapshot.as_ref().is_none_or(Snapshot::is_sent);
        if let Some((exit, _)) = exit
            && all_sent
            && attachment.exit == ExitFrame::Unsent
        {
            attachment.exit = ExitFrame::InFlight;
            let frame = ServerFrame::Exit { epoch: *epoch, offset: end, exit: exit.clone() }.to_json();
            effects.push_back(Effect::Push { to: id.clone(), frame, kind: PushKind::Exit });
        }
        if attachment.input_ack_at.is_some_and(|due| due <= now) {
            attachment.input_ack_at = None;
            if let Some(input_offset) = input.filter(|input| *input > attachment.acked_input) {
                attachment.acked_input = input_offset;
                let client_id = attachment.client_id.clone();
                let frame = ServerFrame::InputAck { epoch: *epoch, client_id, input_offset }.to_json();
                effects.push_back(Effect::Push { to: id.clone(), frame, kind: PushKind::Other });
            }
        }
        // Probe for any unacknowledged output: a push that counted as delivered may have been lost with its socket.
        let window = &mut attachment.window;
        let waits = window.acked() < window.sent();
        let probe_at = window.probe_at(waits, now);
        if window.probe(now) {
            let frame = attachment.probe(*epoch, input);
            effects.push_back(Effect::Push { to: id.clone(), frame, kind: PushKind::Other });
        }
        let lost_at = attachment.lost_at(end, settings.limits.resume_grace, now);
        [Some(due), lost_at, probe_at.filter(|at| *at > now), attachment.input_ack_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Deadlines while unreachable: only the end of the shell's wait for each client.
    fn tick_unreachable(&mut self, now: Duration) -> Option<Duration> {
        let (end, grace) = (self.log.end(), self.settings.limits.resume_grace);
        let attachments =
            self.connections.values_mut().filter_map(|connection| connection.attachment.as_mut());
        attachments.filter_map(|attachment| attachment.lost_at(end, grace, now)).min()
    }

    /// Reports holes in clients' input that stay open.
    fn tick_gaps(&mut self, now: Duration) -> Option<Duration> {
        let mut told = Vec::new();
        let mut next: Option<Duration> = None;
        for (_, client) in self.clients.iter_mut() {
            let Some(holder) = client.holder.clone() else { continue };
            if client.gap_due(now) {
                told.push((holder, client.input.next()));
            }
            next = [next, client.gap_at()].into_iter().flatten().min();
        }
        for (to, input_offset) in told {
            let mut error = ErrorFrame::new(ErrorCode::InputGap, "input is missing; resend from inputOffset");
            error.input_offset = Some(input_offset);
            self.push(&to, &error.answering(Some("input".to_owned())).into());
        }
        next
    }
}
