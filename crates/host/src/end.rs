//! The end of a session: its processes ended, its last words handed over.

use std::time::Duration;

use shellbridge_session::link::{Ended, Ending};
use tokio::time::timeout;

use crate::{driver::Driver, link::Link, log, process, pty::Shell};

/// How long the backend may take to read last words.
const FAREWELL: Duration = Duration::from_secs(3);

impl Driver {
    /// Leaves nothing behind: processes ended, descriptors closed, and the backend told.
    pub(crate) async fn end(self, why: &str) {
        let Self { shell, command, mut link, mut died, .. } = self;
        if let Some(link) = &mut link {
            link.say(Ending { why: why.to_owned() });
        }
        if let Some(running) = command {
            running.task.abort();
        }
        // Closing the terminal is the hangup that shells know; the rest is for those that do not care.
        let Shell { reader, writer, child: _child, .. } = shell;
        drop((reader, writer));
        let told = async {
            if let Some(link) = &mut link {
                let _ = timeout(FAREWELL, link.flushed()).await;
            }
        };
        tokio::join!(process::end_all(&mut died), told);
        if let Some(mut link) = link {
            say_all(&mut link).await;
        }
    }
}

impl Driver {
    /// After a panic, the state of the session is not to be relied on: the backend is told where that was, sees the link
    /// end, and tells the clients. Nothing is left behind all the same.
    pub(crate) async fn crash(self) {
        let Self { shell, mut link, mut died, .. } = self;
        if let Some(link) = &mut link {
            for line in log::take() {
                link.say(line);
            }
            let _ = timeout(FAREWELL, link.flushed()).await;
        }
        drop(link);
        let Shell { reader, writer, child: _child, .. } = shell;
        drop((reader, writer));
        process::end_all(&mut died).await;
    }
}

/// The last message, after the last lines of the log.
async fn say_all(link: &mut Link) {
    for line in log::take() {
        link.say(line);
    }
    link.say(Ended {});
    let _ = timeout(FAREWELL, link.flushed()).await;
}

/// There was no session to end.
pub(crate) async fn fail(mut link: Link, why: &str) {
    link.say(Ending { why: why.to_owned() });
    say_all(&mut link).await;
}
