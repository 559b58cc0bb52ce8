//! The state of a session and its event handlers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Weak,
    time::Duration,
};

use shellbridge_protocol::{
    ErrorCode, PROTOCOL_VERSION,
    frame::{ClientFrame, ErrorFrame, Exit, ServerFrame},
    ids::{ConnectionId, SessionId},
    size::Size,
    stream::OutputLog,
    times::{Epoch, UnixMs},
};

use crate::{
    client::Clients,
    commands::{Command, CommandOutcome, Commands, Owner, Requester},
    connection::{Connection, ConnectionInfo},
    effect::{Effect, PushKind, Reply, Request, Sent, error},
    model::{Model, Work},
    snapshot::Picture,
    timers::{Restarts, TimerTable},
};

/// Bounds of a session's streams and waits.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "link", derive(serde::Serialize, serde::Deserialize))]
pub struct Limits {
    /// `OUTPUT_BUFFER`: bytes of output kept for replay.
    pub output_buffer: usize,
    /// `OUTPUT_WINDOW`: bytes of output sent past a connection's last acknowledgement.
    pub output_window: u64,
    /// `RESUME_GRACE`: how long the shell waits for a lost client.
    pub resume_grace: Duration,
}

/// Settings of a session.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "link", derive(serde::Serialize, serde::Deserialize))]
pub struct Settings {
    /// Bounds of its streams.
    pub limits: Limits,
    /// `DETACHED_TTL`: how long a session without a connection exists.
    pub detached_ttl: Duration,
    /// `SHELL_RESTART`: whether a new shell starts when one ends.
    pub shell_restart: bool,
}

/// The session is full. A retry may help once others have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has too many connections")]
pub struct TooManyConnections;

/// Public status of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Number of connections.
    pub connections: usize,
    /// Whether its shell has ended.
    pub exited: bool,
}

/// A session: one shell, its byte streams and its connections.
pub struct Session {
    pub(crate) id: SessionId,
    pub(crate) settings: Settings,
    /// Unix time of the session's start, which is zero on its own clock.
    pub(crate) started: UnixMs,
    pub(crate) epoch: Epoch,
    pub(crate) log: OutputLog,
    pub(crate) model: Model,
    /// The newest picture of the screen, while a client still needs it.
    pub(crate) picture: Weak<Picture>,
    pub(crate) size: Size,
    pub(crate) exit: Option<(Exit, Duration)>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) clients: Clients,
    pub(crate) commands: Commands,
    /// Writes to the shell so far.
    pub(crate) writes: u64,
    pub(crate) dropped: VecDeque<ConnectionId>,
    /// When the session expires.
    pub(crate) expires: Duration,
    pub(crate) detached_since: Option<Duration>,
    /// Whether frames can be pushed.
    pub(crate) reachable: bool,
    pub(crate) restarts: Restarts,
    pub(crate) timers: TimerTable,
    pub(crate) effects: VecDeque<Effect>,
    /// [`Effect::StartShell`] awaits its outcome.
    pub(crate) restarting: bool,
    /// An event occurred since the timers were set.
    pub(crate) stale: bool,
    pub(crate) over: bool,
}

impl Session {
    /// A session whose shell starts now. `started` becomes the first epoch.
    pub fn new(id: SessionId, settings: Settings, started: UnixMs, expires_at: UnixMs) -> Self {
        let size = Size::default();
        let epoch = Epoch::from(started);
        Self {
            id,
            settings,
            started,
            epoch,
            log: OutputLog::new(settings.limits.output_buffer),
            model: Model::new(size, epoch, settings.limits.output_buffer),
            picture: Weak::new(),
            size,
            exit: None,
            connections: BTreeMap::new(),
            clients: Clients::default(),
            commands: Commands::default(),
            writes: 0,
            dropped: VecDeque::new(),
            expires: expires_at.saturating_since(started),
            detached_since: None,
            reachable: true,
            restarts: Restarts::default(),
            timers: TimerTable::default(),
            effects: VecDeque::new(),
            restarting: false,
            stale: true,
            over: false,
        }
    }

    /// Identifies the running shell and its streams.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Offset of the output: bytes that the shell has written.
    pub fn output_offset(&self) -> u64 {
        self.log.end()
    }

    /// Expiry, Unix ms.
    pub fn expires_at(&self) -> UnixMs {
        self.unix_ms(self.expires)
    }

    /// The terminal's size in force.
    pub const fn size(&self) -> Size {
        self.size
    }

    /// Its public status.
    pub fn status(&self) -> Status {
        Status { connections: self.connections.len(), exited: self.exit.is_some() }
    }

    /// The session's connections.
    pub fn connections(&self) -> impl Iterator<Item = &ConnectionInfo> {
        self.connections.values().map(|connection| &connection.info)
    }

    /// Whether the session has this connection.
    pub fn has(&self, id: &ConnectionId) -> bool {
        self.connections.contains_key(id)
    }

    /// A connection was made, or its transport has confirmed its identity again.
    ///
    /// # Errors
    /// There are too many connections.
    pub fn handle_connect(&mut self, info: ConnectionInfo, now: Duration) -> Result<(), TooManyConnections> {
        let id = info.id.clone();
        let read_only = info.read_only;
        let known = self.connections.contains_key(&id);
        self.connect(info, now)?;
        if !known {
            let greeting = ServerFrame::Connected {
                message: "connected".to_owned(),
                session_id: self.id.clone(),
                connection_id: id.clone(),
                timestamp: self.unix_ms(now),
                protocol: PROTOCOL_VERSION,
                read_only,
            };
            self.push(&id, &greeting);
        }
        Ok(())
    }

    /// A connection has closed, as its transport reports.
    pub fn handle_gone(&mut self, id: &ConnectionId, now: Duration) {
        self.stale = true;
        self.disconnect(id, now);
    }

    /// A frame arrived. Adds its connection if the session does not have it.
    pub fn handle_frame(
        &mut self,
        info: ConnectionInfo,
        frame: ClientFrame,
        request: Request,
        now: Duration,
    ) -> Reply {
        let id = info.id.clone();
        if !self.connections.contains_key(&id) {
            if self.was_dropped(&id) && !matches!(frame, ClientFrame::Attach { .. }) {
                return error(ErrorCode::NotAttached, "attach first").into();
            }
            if let Err(full) = self.connect(info, now) {
                return error(ErrorCode::RateLimited, &full.to_string()).into();
            }
        }
        self.decide(&id, frame, request, now)
    }

    /// Handles every type of frame. The only place that enforces view-only connections.
    pub(crate) fn decide(
        &mut self,
        id: &ConnectionId,
        frame: ClientFrame,
        request: Request,
        now: Duration,
    ) -> Reply {
        self.stale = true;
        let timestamp = self.unix_ms(now);
        let Some(connection) = self.connections.get_mut(id) else {
            return error(ErrorCode::NotAttached, "attach first").into();
        };
        connection.heard = now;
        let read_only = connection.info.read_only;
        match frame {
            ClientFrame::Resize { .. }
            | ClientFrame::Input { .. }
            | ClientFrame::Command { .. }
            | ClientFrame::Clear
            // Not for viewers: a command may contain a secret that the screen never showed.
            | ClientFrame::History
                if read_only =>
            {
                error(ErrorCode::ReadOnly, "this connection is view-only").into()
            }
            ClientFrame::Ping { timestamp: echo, output_offset } => {
                if let Some(offset) = output_offset {
                    self.acknowledge(id, offset, None, now);
                }
                Reply::Frame(ServerFrame::Pong { timestamp, echo })
            }
            ClientFrame::Command { command, id: name, timeout_ms } => {
                let owner = Owner { connection: id.clone(), client: connection.client_id.clone() };
                let requester = Requester { owner, request: request.number };
                let command = Command::new(name.unwrap_or(request.message_id), command, timeout_ms);
                let Self { commands, connections, effects, .. } = self;
                commands.ask(command, requester, effects, now, |id| connections.contains_key(id))
            }
            ClientFrame::Resize { cols, rows, seq } => {
                if connection.note_seq(seq) {
                    connection.size = Some(Size { cols, rows });
                    self.refit();
                }
                let Size { cols, rows } = self.size;
                Reply::Frame(ServerFrame::ResizeAck { cols, rows, timestamp })
            }
            ClientFrame::History => Reply::Frame(self.commands.history(timestamp)),
            ClientFrame::Clear => Reply::Frame(self.commands.clear(timestamp)),
            ClientFrame::Echo => Reply::Echo,
            ClientFrame::Attach { client_id, cols, rows, output_offset, epoch, seq } => {
                let offset = output_offset.filter(|_| epoch.is_none_or(|epoch| epoch == self.epoch));
                self.attach(id, client_id, Size { cols, rows }, offset.unwrap_or(0), seq, now).into()
            }
            ClientFrame::Input { client_id, offset, payload, epoch, output_offset } => {
                if epoch.is_some_and(|epoch| epoch != self.epoch) {
                    return Reply::Nothing;
                }
                let bytes = match payload.decode() {
                    Ok(bytes) => bytes,
                    Err(bad) => return error(ErrorCode::BadFrame, &bad.to_string()).into(),
                };
                if let Some(offset) = output_offset {
                    self.acknowledge(id, offset, None, now);
                }
                self.input(id, &client_id, offset, &bytes, now).into()
            }
            ClientFrame::Ack { output_offset, epoch } => {
                self.acknowledge(id, output_offset, epoch, now);
                Reply::Nothing
            }
            ClientFrame::Detach { seq } => {
                if connection.note_seq(seq) {
                    connection.left = seq;
                    self.detach(id, now);
                    self.refit();
                }
                Reply::Frame(ServerFrame::Detached)
            }
            ClientFrame::Unknown => Reply::Unknown,
        }
    }

    /// Ends the connections for which `stale` returns `true` after `wait`, which lets clients connect with a newer token.
    pub fn handle_revoked(&mut self, wait: Duration, now: Duration, stale: impl Fn(&ConnectionInfo) -> bool) {
        self.stale = true;
        for connection in self.connections.values_mut().filter(|connection| stale(&connection.info)) {
            connection.expires = connection.expires.min(now + wait);
        }
    }

    /// Outcome of [`Effect::Push`].
    pub fn handle_pushed(&mut self, id: &ConnectionId, kind: PushKind, sent: Sent, now: Duration) {
        self.stale = true;
        let Some(connection) = self.connections.get_mut(id) else { return };
        match kind {
            PushKind::Output => connection.in_flight = connection.in_flight.saturating_sub(1),
            PushKind::Size => connection.size_in_flight = false,
            PushKind::Exit | PushKind::Other => {}
        }
        match sent {
            Sent::Gone => self.drop_connection(id, now),
            Sent::TooLarge => {
                // A retry would be as large, and the stream may not skip it.
                let error = ErrorFrame::new(ErrorCode::TooLarge, "frame too large for this connection");
                self.end_connection(id, error, now);
            }
            Sent::Delivered | Sent::Unknown => connection.pushed(kind, sent == Sent::Delivered),
        }
    }

    /// Sets whether frames can be pushed. While they cannot, the session keeps its connections and makes only pushes whose
    /// loss is harmless. It ends after [`Settings::detached_ttl`] of that.
    pub fn handle_reachable(&mut self, reachable: bool) {
        self.stale = true;
        self.reachable = reachable;
    }

    /// Outcome of [`Effect::Check`].
    pub fn handle_checked(&mut self, id: &ConnectionId, exists: bool, now: Duration) {
        self.stale = true;
        if !exists {
            self.drop_connection(id, now);
        }
    }

    /// The shell wrote bytes; no more than [`Session::read_allowance`] permitted.
    pub fn handle_output(&mut self, bytes: &[u8]) {
        self.stale = true;
        self.model.output(bytes);
        self.log.append(bytes);
    }

    /// The turn of [`Effect::Follow`] has run.
    pub fn handle_followed(&mut self, work: Box<Work>) {
        self.stale = true;
        self.model.followed(work);
    }

    /// Outcome of [`Effect::Run`].
    pub fn handle_command(&mut self, outcome: CommandOutcome, now: Duration) {
        self.stale = true;
        let timestamp = self.unix_ms(now);
        self.commands.finished(outcome, timestamp, &mut self.effects, now);
    }

    /// The time of [`Session::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
    }

    /// The next effect.
    pub fn poll_effect(&mut self, now: Duration) -> Option<Effect> {
        if self.effects.is_empty() && std::mem::take(&mut self.stale) {
            self.advance(now);
        }
        self.effects.pop_front()
    }

    /// When to call [`Session::handle_timeout`], unless another event occurs first.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// The Unix time of `now`.
    pub(crate) fn unix_ms(&self, now: Duration) -> UnixMs {
        self.started.saturating_add(now)
    }

    /// Pushes a frame that is neither output nor a size.
    pub(crate) fn push(&mut self, to: &ConnectionId, frame: &ServerFrame) {
        let frame = frame.to_json();
        self.effects.push_back(Effect::Push { to: to.clone(), frame, kind: PushKind::Other });
    }

    /// Sets the terminal to the smallest size of the attached writers or, without any, to that of the connection heard last.
    pub(crate) fn refit(&mut self) {
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

#[cfg(test)]
mod tests;
