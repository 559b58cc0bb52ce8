//! What a session decides: frames, output, times in; pushes and a held or running shell out. No I/O, no clock.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Weak,
    time::Duration,
};

use bytes::Bytes;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ClientFrame, ErrorFrame, Exit, NoticeCode, ServerFrame},
    stream::{Acked, Arrival, OutputLog},
};

use super::{
    Limits, Size,
    client::{Clients, Gone},
    connection::{Attachment, Connection, ConnectionInfo, ExitFrame, encode},
    model::{Model, Work},
    snapshot::{Picture, Snapshot},
};
use crate::{
    outlet::{ConnectionId, Sent},
    unix_ms,
};

/// Connections of one session at once.
const MAX_CONNECTIONS: usize = 256;
/// Dropped connections that are remembered, so that their late frames are told to attach again.
const MAX_DROPPED: usize = 64;

/// The state of a session. Times are durations since its start, by a monotonic clock.
pub(super) struct Core {
    pub(super) limits: Limits,
    pub(super) epoch: u64,
    pub(super) log: OutputLog,
    pub(super) model: Model,
    /// The newest picture of it, for as long as somebody is to get it.
    pub(super) picture: Weak<Picture>,
    pub(super) size: Size,
    pub(super) exit: Option<(Exit, Duration)>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    pub(super) clients: Clients,
    /// Writes to the shell so far.
    pub(super) writes: u64,
    dropped: VecDeque<ConnectionId>,
    pub(super) effects: VecDeque<Effect>,
}

/// What the task has to do.
#[derive(Debug)]
pub(super) enum Effect {
    /// Push a frame; its end is told to [`Core::pushed`].
    Push { to: ConnectionId, frame: Bytes, kind: PushKind },
    /// End the connection, after a last frame if there is one.
    Close(ConnectionId, Option<Bytes>),
    /// See whether the connection still exists; the answer goes to [`Core::checked`].
    Check(ConnectionId),
    /// Tell the PTY its size.
    Resize(Size),
    /// Do a turn of what the model of the screen has to follow; it is given back to [`Core::followed`].
    Follow(Box<Work>),
}

/// What a push was, so that its end means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PushKind {
    /// Output or a snapshot; counts as under way.
    Output,
    /// The shell's end.
    Exit,
    /// The size in force.
    Size,
    /// Anything else.
    Other,
}

impl Core {
    pub(super) fn new(limits: Limits, epoch: u64) -> Self {
        let size = Size::default();
        Self {
            limits,
            epoch,
            log: OutputLog::new(limits.output_buffer),
            model: Model::new(size, epoch, limits.output_buffer),
            picture: Weak::new(),
            size,
            exit: None,
            connections: BTreeMap::new(),
            clients: Clients::default(),
            writes: 0,
            dropped: VecDeque::new(),
            effects: VecDeque::new(),
        }
    }

    /// A connection is there, newly made or found out about by its first frame. False if there are too many.
    pub(super) fn connect(&mut self, info: ConnectionInfo, now: Duration) -> bool {
        if let Some(known) = self.connections.get_mut(&info.id) {
            known.info = info;
            return true;
        }
        if self.connections.len() >= MAX_CONNECTIONS {
            return false;
        }
        self.dropped.retain(|id| *id != info.id);
        self.connections.insert(info.id.clone(), Connection::new(info, now));
        true
    }

    /// A connection is gone, as its `$disconnect` says.
    pub(super) fn disconnect(&mut self, id: &str, now: Duration) {
        if let Some(connection) = self.connections.remove(id) {
            self.lost(&connection, now);
            self.dropped.push_back(connection.info.id);
            if self.dropped.len() > MAX_DROPPED {
                self.dropped.pop_front();
            }
            self.refit();
        }
    }

    /// Ends a connection from this side.
    pub(super) fn drop_connection(&mut self, id: &ConnectionId, now: Duration) {
        self.disconnect(id, now);
        self.effects.push_back(Effect::Close(id.clone(), None));
    }

    /// Ends a connection with a last word.
    pub(super) fn farewell(&mut self, id: &ConnectionId, frame: &ServerFrame, now: Duration) {
        self.disconnect(id, now);
        self.effects.push_back(Effect::Close(id.clone(), Some(encode(frame))));
    }

    /// What became of [`Effect::Check`].
    pub(super) fn checked(&mut self, id: &ConnectionId, exists: bool, now: Duration) {
        if !exists {
            self.drop_connection(id, now);
        }
    }

    /// Whether frames of this connection, which is not known, come late.
    pub(super) fn was_dropped(&self, id: &str) -> bool {
        self.dropped.iter().any(|dropped| &**dropped == id)
    }

    /// A frame of a connection that is known. The answer goes back the way it came.
    pub(super) fn frame(
        &mut self,
        id: &ConnectionId,
        frame: ClientFrame,
        now: Duration,
    ) -> Option<ServerFrame> {
        let Some(connection) = self.connections.get_mut(id) else {
            return error(ErrorCode::NotAttached, "attach first");
        };
        connection.heard = now;
        let read_only = connection.info.read_only;
        match frame {
            ClientFrame::Ping { timestamp, output_offset } => {
                if let Some(offset) = output_offset {
                    self.acknowledge(id, offset, None, now);
                }
                Some(ServerFrame::Pong { timestamp: unix_ms(), echo: timestamp })
            }
            ClientFrame::Resize { .. } | ClientFrame::Input { .. } if read_only => {
                error(ErrorCode::ReadOnly, "this connection may only watch")
            }
            ClientFrame::Resize { cols, rows, seq } => {
                if connection.is_news(seq) {
                    connection.size = Some(Size { cols, rows });
                    self.refit();
                }
                Some(self.size.ack())
            }
            ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, seq } => {
                let offset = output_offset.filter(|_| epoch.is_none_or(|epoch| epoch == self.epoch));
                self.attach(id, client_id, Size { cols, rows }, offset.unwrap_or(0), seq, now)
            }
            ClientFrame::Input { client_id, offset, payload, epoch, output_offset } => {
                if epoch.is_some_and(|epoch| epoch != self.epoch) {
                    return None;
                }
                let bytes = match payload.decode() {
                    Ok(bytes) => bytes,
                    Err(bad) => return error(ErrorCode::BadFrame, &bad.to_string()),
                };
                if let Some(offset) = output_offset {
                    self.acknowledge(id, offset, None, now);
                }
                self.input(id, &client_id, offset, &bytes, now)
            }
            ClientFrame::Ack { output_offset, epoch } => {
                self.acknowledge(id, output_offset, epoch, now);
                None
            }
            ClientFrame::Detach { seq } => {
                if connection.is_news(seq) {
                    connection.left = seq;
                    self.detach(id, now);
                    self.refit();
                }
                Some(ServerFrame::Detached)
            }
            // The routes and the command queue have answered the others.
            _ => None,
        }
    }

    fn attach(
        &mut self,
        id: &ConnectionId,
        client_id: String,
        size: Size,
        offset: u64,
        seq: Option<u64>,
        now: Duration,
    ) -> Option<ServerFrame> {
        let connection = self.connections.get(id)?;
        let writes = !connection.info.read_only;
        // Viewers have no input stream, and may not take a writer's.
        if writes
            && let Some(holder) = self.clients.get(&client_id).and_then(|client| client.holder.as_ref())
            && holder != id
            && let Some(other) = self.connections.get(holder)
        {
            if connection.is_older_than(other) {
                return replaced();
            }
            let holder = holder.clone();
            self.detach(&holder, now);
        }
        let connection = self.connections.get_mut(id)?;
        let news = connection.is_news(seq);
        if !news && connection.attachment.is_some() {
            return self.attached(id);
        }
        if !news && seq <= connection.left {
            return error(ErrorCode::NotAttached, "this connection has detached since");
        }
        let same = connection.attachment.as_ref().filter(|attachment| attachment.client_id == client_id);
        // Without a counter it may be a repetition that comes late: never behind what is acknowledged.
        let from = match same {
            Some(attachment) if seq.is_none() => offset.max(attachment.window.acked()),
            _ => offset,
        };
        // Nothing beyond the end exists: an offset there is of another shell.
        let from = if from > self.log.end() { 0 } else { from };
        let input = if writes {
            let Some(client) = self.clients.enter(&client_id) else {
                return error(ErrorCode::RateLimited, "too many clients are attached to this session");
            };
            client.attach(id.clone())
        } else {
            0
        };
        if connection.attachment.as_ref().is_some_and(|attachment| attachment.client_id != client_id) {
            self.detach(id, now);
        }
        let window = self.limits.output_window;
        let connection = self.connections.get_mut(id)?;
        let attachment =
            connection.attachment.get_or_insert_with(|| Attachment::new(client_id, from, window));
        attachment.window.reset(from);
        attachment.behind_since = None;
        attachment.told_input = input;
        attachment.exit = ExitFrame::Unsent;
        // A resize that overtook it is newer.
        if writes && (news || connection.size.is_none()) {
            connection.size = Some(size);
        }
        self.refit();
        let Core { connections, log, model, picture, size, .. } = self;
        let connection = connections.get_mut(id)?;
        connection.told_size = Some(*size);
        let attachment = connection.attachment.as_mut()?;
        attachment.bridge_gap(log, || Picture::shared(picture, model, log.end(), *size));
        let goes_on = attachment.window.sent();
        attachment.answered = (goes_on, Some(goes_on - from).filter(|gap| *gap > 0));
        self.attached(id)
    }

    /// The answer to `attach`, the first or a repeated one.
    fn attached(&self, id: &ConnectionId) -> Option<ServerFrame> {
        let connection = self.connections.get(id)?;
        let attachment = connection.attachment.as_ref()?;
        let (output_offset, gap) = attachment.answered;
        Some(ServerFrame::Attached {
            epoch: self.epoch,
            output_offset,
            input_offset: self.clients.get(&attachment.client_id).map_or(0, |client| client.input.next()),
            cols: self.size.cols,
            rows: self.size.rows,
            read_only: connection.info.read_only,
            gap,
            exit: self.exit.as_ref().map(|(exit, _)| exit.clone()),
        })
    }

    fn input(
        &mut self,
        id: &ConnectionId,
        client_id: &str,
        offset: u64,
        bytes: &[u8],
        now: Duration,
    ) -> Option<ServerFrame> {
        let not_attached = || error(ErrorCode::NotAttached, "attach first");
        let Some(client) = self.clients.get_mut(client_id) else { return not_attached() };
        let Some(holder) = client.holder.as_ref() else { return not_attached() };
        if holder != id {
            let (this, holder) = (self.connections.get(id)?, self.connections.get(holder)?);
            // A newer connection will hold it once its `attach` has come, which may be late.
            return if this.is_older_than(holder) { replaced() } else { not_attached() };
        }
        let arrival = client.typed(offset, bytes, now);
        let consumed = client.input.consumed();
        if arrival == Arrival::Repeat {
            // Its acknowledgement was lost: said at once, by the way the frame came.
            let attachment = self.connections.get_mut(id)?.attachment.as_mut()?;
            attachment.told_input = consumed;
            return Some(ServerFrame::InputAck {
                epoch: self.epoch,
                client_id: client_id.to_owned(),
                input_offset: consumed,
            });
        }
        None
    }

    fn acknowledge(&mut self, id: &ConnectionId, offset: u64, epoch: Option<u64>, now: Duration) {
        if epoch.is_some_and(|epoch| epoch != self.epoch) {
            return;
        }
        let Some(attachment) = self.connections.get_mut(id).and_then(|c| c.attachment.as_mut()) else {
            return;
        };
        // Nobody can have what has not been sent: this was said before a picture had to take the place of output.
        if attachment
            .snapshot
            .as_ref()
            .is_some_and(|picture| offset >= picture.offset() && !picture.is_sent())
        {
            return;
        }
        match attachment.window.ack(offset, now) {
            Acked::Progress => {
                attachment.acknowledged();
                attachment.behind_since = None;
            }
            Acked::Rewound => {
                attachment.acknowledged();
                attachment.rewound();
                attachment.behind_since = None;
                if attachment.exit == ExitFrame::Delivered {
                    attachment.exit = ExitFrame::Unsent;
                }
            }
            Acked::Nothing => {}
        }
    }

    /// Bytes of the shell, no more than [`Core::read_allowance`] said.
    pub(super) fn output(&mut self, bytes: &[u8]) {
        self.model.output(bytes);
        self.log.append(bytes);
    }

    /// The model of the screen has done a turn.
    pub(super) fn followed(&mut self, work: Box<Work>) {
        self.model.followed(work);
    }

    /// The shell ended, and all of its output was given to [`Core::output`].
    pub(super) fn exited(&mut self, exit: Exit, now: Duration) {
        self.exit = Some((exit, now));
    }

    /// A push has ended.
    pub(super) fn pushed(&mut self, id: &ConnectionId, kind: PushKind, sent: Sent, now: Duration) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match kind {
            PushKind::Output => connection.in_flight = connection.in_flight.saturating_sub(1),
            PushKind::Size => connection.size_in_flight = false,
            PushKind::Exit | PushKind::Other => {}
        }
        if sent == Sent::Gone {
            self.drop_connection(id, now);
        } else if sent == Sent::TooLarge {
            // Sent again it would be as large, and nothing may be left out.
            let error = ErrorFrame::new(ErrorCode::TooLarge, "the way to you takes no frame of this size");
            self.farewell(id, &error.into(), now);
        } else if kind == PushKind::Exit
            && let Some(attachment) = &mut connection.attachment
            && attachment.exit == ExitFrame::InFlight
        {
            attachment.exit = ExitFrame::Delivered;
        }
    }

    /// A new shell runs: its streams start anew, and everybody attaches again.
    pub(super) fn restarted(&mut self, epoch: u64, now: Duration) {
        self.epoch = epoch.max(self.epoch + 1);
        self.log = OutputLog::new(self.limits.output_buffer);
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

    /// Tells every connection something.
    pub(super) fn notify(&mut self, code: NoticeCode, message: &str) {
        let frame = encode(&ServerFrame::Notice { code, message: message.to_owned() });
        let all: Vec<_> = self.connections.keys().cloned().collect();
        for to in all {
            self.effects.push_back(Effect::Push { to, frame: frame.clone(), kind: PushKind::Other });
        }
    }

    /// Tells every connection once that the session's time is nearly over.
    pub(super) fn expires_soon(&mut self) {
        let message = "the session's time is nearly over".to_owned();
        let frame = encode(&ServerFrame::Notice { code: NoticeCode::SessionExpiring, message });
        for (to, connection) in &mut self.connections {
            if !std::mem::replace(&mut connection.told_expiry, true) {
                let effect = Effect::Push { to: to.clone(), frame: frame.clone(), kind: PushKind::Other };
                self.effects.push_back(effect);
            }
        }
    }

    /// The session has more time: when that is nearly over, everybody is told anew.
    pub(super) fn extended(&mut self) {
        for connection in self.connections.values_mut() {
            connection.told_expiry = false;
        }
    }

    /// Pushes a frame that answers no request in hand.
    pub(super) fn push(&mut self, to: &ConnectionId, frame: &ServerFrame) {
        self.effects.push_back(Effect::Push { to: to.clone(), frame: encode(frame), kind: PushKind::Other });
    }

    /// Takes a connection out of the streams. Its client is gone, and not waited for.
    fn detach(&mut self, id: &ConnectionId, now: Duration) {
        if let Some(attachment) =
            self.connections.get_mut(id).and_then(|connection| connection.attachment.take())
            && let Some(client) = self.clients.get_mut(&attachment.client_id)
            && client.holder.as_ref() == Some(id)
        {
            client.holder = None;
            client.gone = Some(Gone { since: now, needs: None, told_exit: true });
        }
    }

    /// A connection broke: its client may come back for what it has not acknowledged.
    fn lost(&mut self, connection: &Connection, now: Duration) {
        if let Some(attachment) = &connection.attachment
            && let Some(client) = self.clients.get_mut(&attachment.client_id)
            && client.holder.as_ref() == Some(&connection.info.id)
        {
            client.holder = None;
            let since = attachment.behind_since.unwrap_or(now);
            // A picture on its way stands for what is before it.
            let snapshot = attachment.snapshot.as_ref().map_or(0, Snapshot::offset);
            let needs = attachment.window.acked().max(snapshot);
            client.gone =
                Some(Gone { since, needs: Some(needs), told_exit: attachment.exit == ExitFrame::Delivered });
        }
    }

    /// The terminal is as large as the smallest of the attached writers', or, while there is none, as the newest
    /// connection says.
    fn refit(&mut self) {
        let attached = self.connections.values().filter(|c| c.attachment.is_some() && !c.info.read_only);
        let smallest = attached
            .filter_map(|connection| connection.size)
            .reduce(|a, b| Size { cols: a.cols.min(b.cols), rows: a.rows.min(b.rows) });
        let newest = || {
            let sized = self.connections.values().filter(|connection| connection.size.is_some());
            sized.max_by_key(|connection| connection.heard).and_then(|connection| connection.size)
        };
        let Some(size) = smallest.or_else(newest).filter(|size| *size != self.size) else { return };
        self.size = size;
        self.model.resize(self.log.end(), size);
        self.picture = Weak::new();
        self.effects.push_back(Effect::Resize(size));
    }
}

/// An answer that says what is wrong. The route adds which frame it was.
#[allow(clippy::unnecessary_wraps, reason = "it stands where an answer may be none")]
fn error(code: ErrorCode, message: &str) -> Option<ServerFrame> {
    Some(ErrorFrame::new(code, message).into())
}

fn replaced() -> Option<ServerFrame> {
    error(ErrorCode::Replaced, "a newer connection took this clientId")
}

#[cfg(test)]
mod tests;
