//! Ends a session: notifies and closes its connections, and ends its host.

use std::time::Duration;

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
};
use tokio::{task::JoinSet, time::timeout};

use super::{END_WITHIN, Over, Task};
use crate::{metrics, sessions::outlet};

/// How long notifying connections, and then closing them, may take.
const FAREWELL: Duration = Duration::from_secs(3);

impl Task {
    /// Notifies all connections that the session failed, and closes them.
    fn failed(&mut self, why: &str) {
        tracing::error!(why, "the session ended by an internal error");
        metrics::session_failed();
        let error = ErrorFrame::new(ErrorCode::SessionInvalid, "the session ended by an internal error");
        let last = ServerFrame::from(error).to_json();
        for (id, client) in std::mem::take(&mut self.peers) {
            self.close(id, client, Some(last.clone()), Some(ErrorCode::Internal));
        }
    }

    /// Notifies and closes all connections, and ends the host.
    pub(super) async fn end(mut self, over: Over) {
        // Only a failure is reported to clients; a requested end is not an error.
        let whole = matches!(over, Over::Ended);
        match over {
            Over::Failed(why) => self.failed(why),
            Over::Lost => {
                tracing::warn!("the session is another instance's, or may be; its shell ends");
                metrics::session_lost();
                self.pushes.abort_all();
                self.peers.clear();
            }
            Over::Ended => {}
        }
        let Self { mut process, peers, mut pushes, .. } = self;
        let told = async {
            // Finish pushes in flight first, such as an answer or a last error. All share one deadline, so a slow
            // connection does not delay the others.
            let told = async { while pushes.join_next().await.is_some() {} };
            if timeout(FAREWELL, told).await.is_err() {
                tracing::warn!("timed out notifying connections of the session's end");
            }
            let mut closing: JoinSet<_> = peers
                .into_values()
                .map(|client| async move { outlet::close(&*client.outlet, None, None).await })
                .collect();
            let closed = async { while closing.join_next().await.is_some() {} };
            if timeout(FAREWELL, closed).await.is_err() {
                tracing::warn!("timed out closing connections");
            }
        };
        let gone = async { if whole { process.ended(END_WITHIN).await } else { process.kill().await } };
        tokio::join!(told, gone);
    }
}
