//! Opens the link to a host, to start a session in it or to take over the one it has.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

use shellbridge_protocol::{
    ids::{SessionId, UserId},
    times::UnixMs,
};
use shellbridge_session::{
    Settings,
    link::{self, Here, Peer, ShellSpec},
};
use tokio::sync::Notify;

use super::{
    claim::Claim,
    greet::{NotOpened, hello},
    handle::{Handle, Status},
    link::Task,
    outlet::FindRoute,
    seal::Seal,
    stream::Stream,
    tokens::Tokens,
};
use crate::{
    clock::unix_ms,
    launcher::{Host, Process, Room, Setup},
};

/// Parameters of a new session.
pub(crate) struct Start {
    pub(crate) id: SessionId,
    pub(crate) owner: UserId,
    pub(crate) shell: ShellSpec,
    pub(crate) setup: Setup,
    pub(crate) room: Room,
    pub(crate) expires_at: UnixMs,
}

/// Starts a session in a host that has none, under its `claim`. `ended` is called when the session stops accepting messages.
pub(crate) async fn start(
    host: Host,
    seal: Seal,
    settings: Settings,
    start: Start,
    claim: Claim,
    ended: impl FnOnce(&Status) + Send + 'static,
) -> Result<Handle, NotOpened> {
    let Start { id, owner, shell, setup: Setup { files, init }, room, expires_at } = start;
    let status = status(id, owner, unix_ms(), expires_at, Tokens::new(), room);
    let hello = link::Start {
        id: status.id.clone(),
        owner: status.owner.clone(),
        created_at: status.created_at,
        expires_at,
        settings,
        shell,
        notes: seal.put_notes(&status.id, &status.owner, status.created_at, &status.notes()),
        files,
        init,
    };
    let (stream, process, _) = greet(host, Some(hello)).await?;
    Ok(Task::spawn(status, stream, process, seal, claim, |_| (), ended))
}

/// Takes over the session of a host that an earlier backend started.
pub(crate) async fn take_over(
    host: Host,
    seal: Seal,
    routes: &FindRoute,
    claim: impl FnOnce(&Status) -> Claim,
    ended: impl FnOnce(&Status) + Send + 'static,
) -> Result<Handle, NotOpened> {
    let (stream, process, (here, peers)) = greet(host, None).await?;
    let Here { id, owner, created_at, expires_at, notes, output, epoch, exited } = here;
    tracing::info!(session_id = %id, connections = peers.len(), output, epoch = epoch.0, exited, "session taken over");
    let Some(noted) = seal.check_notes(&id, &owner, created_at, &notes) else {
        tracing::warn!(session_id = %id, "a host claims a session that is not its own");
        return Err(NotOpened::Nonsense);
    };
    let (tokens, room) = Status::noted(noted);
    let status = status(id, owner, created_at, expires_at, tokens, room);
    let claim = claim(&status);
    Ok(Task::spawn(status, stream, process, seal, claim, |task| task.take_over(peers, routes), ended))
}

fn status(
    id: SessionId,
    owner: UserId,
    created_at: UnixMs,
    expires_at: UnixMs,
    tokens: Tokens,
    room: Room,
) -> Arc<Status> {
    Arc::new(Status {
        id,
        owner,
        created_at,
        expires_at: AtomicU64::new(expires_at.0),
        tokens,
        room,
        connections: AtomicUsize::new(0),
        exited: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        end: Notify::new(),
    })
}

/// Sends `Hello` and awaits the host's state. Kills a host that fails.
async fn greet(
    Host { stream, mut process }: Host,
    start: Option<link::Start>,
) -> Result<(Stream, Process, (Here, Vec<Peer>)), NotOpened> {
    let mut stream = Stream::new(stream);
    let fresh = start.is_some();
    let said = hello(&mut stream, start).await;
    match said {
        Ok(here) => Ok((stream, process, here)),
        Err(error) => {
            if let Some(other) = stream.channel().other().filter(|other| !other.fits()) {
                return Err(NotOpened::Foreign {
                    session: other.session.clone(),
                    process: Box::new(process),
                });
            }
            // A container is asked again: its engine may hesitate.
            if fresh || matches!(process, Process::Child(_)) {
                process.kill().await;
            }
            Err(error)
        }
    }
}
