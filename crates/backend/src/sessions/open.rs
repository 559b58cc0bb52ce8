//! Opens the link to a host, to start a session in it or to take over the one it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use shellbridge_protocol::{
    ids::{SessionId, UserId},
    times::UnixMs,
};
use shellbridge_session::{
    MAX_CONNECTIONS, Settings,
    link::{self, FILES_FAILED, FromHost, Hello, Here, Known, Peer, ShellSpec},
};
use tokio::{net::UnixStream, sync::Notify, time::timeout};

use super::{
    bounds::{self, Allowance, MAX_LINES},
    claim::Claim,
    handle::{Handle, Status},
    link::{MAX_HELD, Task},
    outlet::FindRoute,
    seal::Seal,
    stream::{Came, Stream},
    tokens::Tokens,
};
use crate::{
    clock::unix_ms,
    launcher::{Host, Process, Room, Setup},
};

/// How long a host may take to answer `Hello`. Generous, because a host yields to the backend on a busy machine.
const HERE_WITHIN: Duration = Duration::from_secs(30);

/// Parameters of a new session.
pub(crate) struct Start {
    pub(crate) id: SessionId,
    pub(crate) owner: UserId,
    pub(crate) shell: ShellSpec,
    pub(crate) setup: Setup,
    pub(crate) room: Room,
    pub(crate) expires_at: UnixMs,
}

/// Why no session could be opened on a host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    /// The host ended, or announced its end.
    #[error("the host ended: {0}")]
    Ended(String),
    /// The session's files could not be laid.
    #[error("{0}")]
    Files(String),
    /// The host violated the protocol, or the start message is too large.
    #[error("protocol error on the link to the host")]
    Nonsense,
    /// The host did not answer in time.
    #[error("the host does not answer")]
    Silent,
    /// The host has another major version. The backend leaves it alone until it ends.
    #[error("the host of session {session} has an incompatible version")]
    Foreign { session: SessionId, process: Box<Process> },
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

/// Sends `Hello` and awaits the host's state. Kills a host that fails, if this backend started it.
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
            if fresh {
                process.kill().await;
            }
            Err(error)
        }
    }
}

/// Greets a host on a new stream, on which it continues its session.
pub(super) async fn greet_again(stream: UnixStream) -> Result<(Stream, Here, Vec<Peer>), NotOpened> {
    let mut stream = Stream::new(stream);
    let (here, peers) = hello(&mut stream, None).await?;
    Ok((stream, here, peers))
}

async fn hello(stream: &mut Stream, start: Option<link::Start>) -> Result<(Here, Vec<Peer>), NotOpened> {
    match stream.say(Hello { start }) {
        Ok(()) => timeout(HERE_WITHIN, here(stream)).await.unwrap_or(Err(NotOpened::Silent)),
        // Too large for a message. Unexpected, because `shell_spec` bounds it.
        Err(_) => Err(NotOpened::Nonsense),
    }
}

async fn here(stream: &mut Stream) -> Result<(Here, Vec<Peer>), NotOpened> {
    let mut peers = Vec::new();
    let mut held = 0;
    let mut lines = Allowance::of(MAX_LINES);
    let mut why = None;
    loop {
        let message = match stream.next(true).await {
            Came::Wrote => continue,
            Came::Over(Some(_)) => return Err(NotOpened::Nonsense),
            Came::Over(None) | Came::Message(FromHost::Ended(_)) => {
                let why = why.unwrap_or_else(|| "the link closed".to_owned());
                let files = why.starts_with(FILES_FAILED);
                return Err(if files { NotOpened::Files(why) } else { NotOpened::Ended(why) });
            }
            Came::Message(message) => message,
        };
        bounds::check(&message).map_err(|_| NotOpened::Nonsense)?;
        match message {
            FromHost::Here(here) => return Ok((here, peers)),
            FromHost::Known(Known { peer }) => {
                held += size(&peer);
                peers.push(peer);
                if peers.len() > MAX_CONNECTIONS || held > MAX_HELD {
                    return Err(NotOpened::Nonsense);
                }
            }
            FromHost::Log(line) if lines.takes() => {
                tracing::info!(said = line.message, "message from a session's host");
            }
            FromHost::Ending(ending) => why = Some(ending.why),
            _ => return Err(NotOpened::Nonsense),
        }
    }
}

/// Bytes of a connection's texts.
fn size(Peer { id, user, token_id, address, .. }: &Peer) -> usize {
    id.len() + user.len() + token_id.as_ref().map_or(0, String::len) + address.len()
}
