//! Ends a session: kills its processes and flushes its last messages.

use std::time::Duration;

use shellbridge_session::link::{Ended, Ending};
use tokio::time::timeout;

use super::Driver;
use crate::{link::Link, process, pty::Shell};

/// How long the backend may take to read the last messages.
const FAREWELL: Duration = Duration::from_secs(3);

impl Driver {
    /// Ends all processes, closes all descriptors, and notifies the backend.
    pub(crate) async fn end(self, why: &str) {
        let Self { shell, command, mut link, mut died, .. } = self;
        if let Some(link) = &mut link {
            link.say(Ending { why: why.to_owned() });
        }
        if let Some(running) = command {
            running.task.abort();
        }
        // Closing the terminal hangs up the shell. `end_all` kills the processes that ignore it.
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

    /// Ends the session after a panic, when its state cannot be trusted. The log tells the backend where the panic was;
    /// the link then closes without [`Ended`], upon which the backend notifies the clients.
    pub(super) async fn crash(self) {
        let Self { shell, mut link, mut died, .. } = self;
        if let Some(link) = &mut link {
            link.say_logs();
            let _ = timeout(FAREWELL, link.flushed()).await;
        }
        drop(link);
        let Shell { reader, writer, child: _child, .. } = shell;
        drop((reader, writer));
        process::end_all(&mut died).await;
    }
}

/// Sends the remaining log lines, then the last message.
async fn say_all(link: &mut Link) {
    link.say_logs();
    link.say(Ended {});
    let _ = timeout(FAREWELL, link.finished()).await;
}

/// Reports that no session could be started.
pub(super) async fn fail(mut link: Link, why: &str) {
    link.say(Ending { why: why.to_owned() });
    say_all(&mut link).await;
}
