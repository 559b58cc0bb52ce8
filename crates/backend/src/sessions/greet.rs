//! Greets a host on a new stream.

use std::time::Duration;

use shellbridge_protocol::ids::SessionId;
use shellbridge_session::{
    MAX_CONNECTIONS,
    link::{self, FILES_FAILED, FromHost, Hello, Here, Known, Peer},
};
use tokio::{net::UnixStream, time::timeout};

use super::{
    bounds::{self, Allowance, MAX_HELD, MAX_LINES},
    stream::{Came, Stream},
};
use crate::launcher::Process;

/// How long a host may take to answer `Hello`. Generous, because a host yields to the backend on a busy machine.
const HERE_WITHIN: Duration = Duration::from_secs(30);

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

/// Greets a host on a new stream, on which it continues its session.
pub(super) async fn greet_again(stream: UnixStream) -> Result<(Stream, Here, Vec<Peer>), NotOpened> {
    let mut stream = Stream::new(stream);
    let (here, peers) = hello(&mut stream, None).await?;
    Ok((stream, here, peers))
}

pub(super) async fn hello(
    stream: &mut Stream,
    start: Option<link::Start>,
) -> Result<(Here, Vec<Peer>), NotOpened> {
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
