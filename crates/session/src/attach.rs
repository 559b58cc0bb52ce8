//! The byte streams' frames: `attach`, `input`, `ack` and `detach`.

use std::time::Duration;

use shellbridge_protocol::{
    ErrorCode,
    frame::ServerFrame,
    ids::{ClientId, ConnectionId},
    size::Size,
    stream::{Acked, Arrival},
    times::Epoch,
};

use crate::{
    client::Gone,
    connection::{Attachment, Connection, ExitFrame},
    effect::error,
    session::Session,
    snapshot::Snapshot,
};

impl Session {
    pub(crate) fn attach(
        &mut self,
        id: &ConnectionId,
        client_id: ClientId,
        size: Size,
        offset: u64,
        seq: Option<u64>,
        now: Duration,
    ) -> Option<ServerFrame> {
        let connection = self.connections.get(id)?;
        let writes = !connection.info.read_only;
        // Viewers have no input stream and cannot take over a writer's.
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
        let news = connection.note_seq(seq);
        if !news && connection.attachment.is_some() {
            return self.attached(id);
        }
        if !news && seq <= connection.left {
            return error(ErrorCode::NotAttached, "this connection has detached since");
        }
        let same = connection.attachment.as_ref().filter(|attachment| attachment.client_id == client_id);
        // Without a counter it may be a late repetition, so the position never moves below the acknowledged one.
        let from = match same {
            Some(attachment) if seq.is_none() => offset.max(attachment.window.acked()),
            _ => offset,
        };
        // An offset beyond the end belongs to another shell.
        let from = if from > self.log.end() { 0 } else { from };
        connection.client_id = Some(client_id.clone());
        self.commands.attached(id, &client_id);
        let input = if writes {
            if self.clients.is_full_for(&client_id) {
                self.make_room_for_client(id, now);
            }
            let Some(client) = self.clients.enter(&client_id) else {
                return error(ErrorCode::RateLimited, "too many clients are attached to this session");
            };
            client.attach(id.clone())
        } else {
            0
        };
        let connection = self.connections.get_mut(id)?;
        if connection.attachment.as_ref().is_some_and(|attachment| attachment.client_id != client_id) {
            self.detach(id, now);
        }
        let window = self.settings.limits.output_window;
        let connection = self.connections.get_mut(id)?;
        let attachment =
            connection.attachment.get_or_insert_with(|| Attachment::new(client_id, from, window));
        attachment.window.reset(from);
        attachment.behind_since = None;
        attachment.acked_input = input;
        attachment.exit = ExitFrame::Unsent;
        // A `resize` that overtook this frame is newer.
        if writes && (news || connection.size.is_none()) {
            connection.size = Some(size);
        }
        self.refit();
        let Session { connections, log, model, picture, size, .. } = self;
        let connection = connections.get_mut(id)?;
        connection.announced_size = Some(*size);
        let attachment = connection.attachment.as_mut()?;
        attachment.bridge_gap(log, || model.picture(picture, log.end(), *size));
        let goes_on = attachment.window.sent();
        attachment.answered = (goes_on, Some(goes_on - from).filter(|gap| *gap > 0));
        self.attached(id)
    }

    /// The answer to a first or repeated `attach`.
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

    pub(crate) fn input(
        &mut self,
        id: &ConnectionId,
        client_id: &ClientId,
        offset: u64,
        bytes: &[u8],
        now: Duration,
    ) -> Option<ServerFrame> {
        let not_attached = || error(ErrorCode::NotAttached, "attach first");
        let Some(client) = self.clients.get_mut(client_id) else { return not_attached() };
        let Some(holder) = client.holder.as_ref() else { return not_attached() };
        if holder != id {
            let (this, holder) = (self.connections.get(id)?, self.connections.get(holder)?);
            // This connection may be the newer one, and its `attach` still on the way.
            return if this.is_older_than(holder) { replaced() } else { not_attached() };
        }
        let arrival = client.typed(offset, bytes, now);
        let consumed = client.input.consumed();
        if arrival == Arrival::Repeat {
            // The acknowledgement was lost, so repeat it at once, as the answer.
            let attachment = self.connections.get_mut(id)?.attachment.as_mut()?;
            attachment.acked_input = consumed;
            return Some(ServerFrame::InputAck {
                epoch: self.epoch,
                client_id: client_id.clone(),
                input_offset: consumed,
            });
        }
        None
    }

    pub(crate) fn acknowledge(
        &mut self,
        id: &ConnectionId,
        offset: u64,
        epoch: Option<Epoch>,
        now: Duration,
    ) {
        if epoch.is_some_and(|epoch| epoch != self.epoch) {
            return;
        }
        let Some(attachment) = self.connections.get_mut(id).and_then(|c| c.attachment.as_mut()) else {
            return;
        };
        // The client cannot have a snapshot that is not sent yet: this acknowledgement predates it.
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
            }
            Acked::Nothing => {}
        }
    }

    /// Removes a connection from the streams. The shell does not wait for its client.
    pub(crate) fn detach(&mut self, id: &ConnectionId, now: Duration) {
        if let Some(attachment) =
            self.connections.get_mut(id).and_then(|connection| connection.attachment.take())
            && let Some(client) = self.clients.get_mut(&attachment.client_id)
            && client.holder.as_ref() == Some(id)
        {
            client.holder = None;
            client.gone = Some(Gone { since: now, needs: None, knows_exit: true });
        }
    }

    /// Handles a lost connection, whose client may come back for unacknowledged output.
    pub(crate) fn lost(&mut self, connection: &Connection, now: Duration) {
        if let Some(attachment) = &connection.attachment
            && let Some(client) = self.clients.get_mut(&attachment.client_id)
            && client.holder.as_ref() == Some(&connection.info.id)
        {
            client.holder = None;
            let since = attachment.behind_since.unwrap_or(now);
            // A snapshot under way replaces the output before it.
            let snapshot = attachment.snapshot.as_ref().map_or(0, Snapshot::offset);
            let needs = attachment.window.acked().max(snapshot);
            client.gone =
                Some(Gone { since, needs: Some(needs), knows_exit: attachment.exit == ExitFrame::Delivered });
        }
    }
}

fn replaced() -> Option<ServerFrame> {
    error(ErrorCode::Replaced, "a newer connection took this clientId")
}
