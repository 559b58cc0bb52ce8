//! The end of a session: its connections told and closed, its host ended.

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

/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a host may take to end its session.
pub(super) const END_WITHIN: Duration = Duration::from_secs(10);

impl Task {
    /// Ends a connection, after a last frame if there is one.
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

    /// Tells all connections that the session failed, and closes them.
    fn failed(&mut self, why: &str) {
        tracing::error!(why, "the session ended by an internal error");
        metrics::session_failed();
        let error = ErrorFrame::new(ErrorCode::SessionInvalid, "the session ended by an internal error");
        let last = ServerFrame::from(error).to_json();
        for (id, client) in std::mem::take(&mut self.peers) {
            self.close(id, client, Some(last.clone()), Some(ErrorCode::Internal));
        }
    }

    /// Leaves nothing behind: connections told and closed, processes ended.
    pub(super) async fn end(mut self, over: Over) {
        // Whoever asked for the end does not get an error for it.
        let whole = matches!(over, Over::Ended);
        if let Over::Failed(why) = over {
            self.failed(why);
        }
        let Self { mut process, peers, mut pushes, .. } = self;
        let told = async {
            // What is under way first: an answer, a last error. One slow connection does not keep the others.
            let told = async { while pushes.join_next().await.is_some() {} };
            if timeout(FAREWELL, told).await.is_err() {
                tracing::warn!("connections could not be told of the session's end in time");
            }
            let mut closing: JoinSet<_> = peers
                .into_values()
                .map(|client| async move { outlet::close(&*client.outlet, None, None).await })
                .collect();
            let closed = async { while closing.join_next().await.is_some() {} };
            if timeout(FAREWELL, closed).await.is_err() {
                tracing::warn!("connections could not be deleted in time");
            }
        };
        let gone = async { if whole { process.ended(END_WITHIN).await } else { process.kill().await } };
        tokio::join!(told, gone);
    }
}
