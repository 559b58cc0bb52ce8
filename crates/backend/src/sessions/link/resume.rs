//! Goes on after the stream to a host has ended although the host lives: a container's stream passes through its engine,
//! which may have been restarted.
//!
//! The host treats a new stream as one from a new backend: it repeats what was not acknowledged.

use std::{sync::atomic::Ordering, time::Duration};

use shellbridge_session::link::{Extend, Gone, Here, Keep, Peer, Reply};
use tokio::time::sleep;

use super::{Open, Task, Unreachable};
use crate::{launcher::Process, sessions::greet};

/// Pause after a stream that did not work.
const AGAIN: Duration = Duration::from_secs(1);

/// How an attempt to go on ended.
pub(super) enum Resumed {
    /// The session goes on.
    Yes,
    /// The host is gone.
    No,
    /// The session's end was requested meanwhile.
    End,
}

impl Task {
    /// Connects to the host again, as long as it may live.
    pub(super) async fn resume(&mut self) -> Resumed {
        self.interrupt();
        let connect = async {
            loop {
                let stream = self.process.reconnect().await?;
                match greet::greet_again(stream).await {
                    Ok((stream, here, peers)) => return Some((stream, here, peers)),
                    Err(error) => tracing::warn!(%error, "cannot reach the session's host again"),
                }
                sleep(AGAIN).await;
            }
        };
        let found = tokio::select! {
            found = connect => found,
            () = self.status.end.notified() => return Resumed::End,
        };
        match found {
            Some((stream, Here { id, .. }, peers)) if id == self.status.id => {
                self.stream = stream;
                self.go_on(peers);
                tracing::info!("the session goes on over a new stream");
                Resumed::Yes
            }
            _ => Resumed::No,
        }
    }

    /// Answers what the host will not answer any more. Clients repeat it.
    fn interrupt(&mut self) {
        self.measures.clear();
        for (_, open) in self.requests.drain() {
            // A requester may have timed out.
            match open {
                Open::Connect { reply, .. } => drop(reply.send(Err(Unreachable::Busy))),
                Open::Frame { reply, .. } => drop(reply.send(Ok(Reply::Nothing))),
            }
        }
    }

    /// Brings both sides to the same state.
    fn go_on(&mut self, known: Vec<Peer>) {
        self.status.connections.store(known.len(), Ordering::Relaxed);
        self.peers.retain(|id, _| known.iter().any(|peer| peer.id == *id));
        for Peer { id, .. } in known {
            if !self.peers.contains_key(&id) {
                self.say(Gone { connection: id });
            }
        }
        // The last ones may have been lost.
        self.say(Extend { expires_at: self.status.expires_at() });
        self.say(Keep { notes: self.notes() });
        self.end_stale();
        for (_, told) in std::mem::take(&mut self.unsaid) {
            self.told(told);
        }
    }

    /// Whether the stream passes through something that may fail while the host lives.
    pub(super) const fn resumable(&self) -> bool {
        matches!(self.process, Process::Container(_))
    }
}
