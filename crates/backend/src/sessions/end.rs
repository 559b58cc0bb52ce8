//! Ends a session: notifies and closes its connections, and ends its host.

use std::{panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
    ids::ConnectionId,
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    link::{Client, Done, Over, Task},
    outlet,
};
use crate::metrics;

/// How long notifying connections, and then closing them, may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a host may take to end its session and exit.
pub(super) const END_WITHIN: Duration = Duration::from_secs(10);

impl Task {
    /// Closes a connection, after a last frame if given.
    pub(super) fn close(
        &mut self,
        id: ConnectionId,
        client: Client,
        last: Option<Bytes>,
        reason: Option<ErrorCode>,
    ) {
        self.pushes.spawn(async move {
            let closing = outlet::close(&*client.outlet, last, reason);
            let _ = AssertUnwindSafe(closing).catch_unwind().await;
            (id, Done::Closed)
        });
    }

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
        if let Over::Failed(why) = over {
            self.failed(why);
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
