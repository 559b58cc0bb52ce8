//! The end of a session: its connections told and closed, its processes ended.

use std::time::Duration;

use shellbridge_protocol::{
    ErrorCode,
    frame::{ErrorFrame, ServerFrame},
};
use tokio::task::JoinSet;

use super::task::{Done, Task};
use crate::{
    launcher::{self, living, pty::Shell},
    sessions::outlet::close,
};

/// How long last words may take.
const FAREWELL: Duration = Duration::from_secs(3);

impl Task {
    /// Tells all connections that the session failed, and closes them.
    pub(super) fn failed(&mut self) {
        let error = ErrorFrame::new(ErrorCode::SessionInvalid, "the session ended by an internal error");
        let last = ServerFrame::from(error).to_json();
        for (id, outlet) in self.outlets.drain() {
            let last = Some(last.clone());
            self.pushes.spawn(async move {
                close(outlet, last, Some(ErrorCode::Internal)).await;
                (id, Done::Closed)
            });
        }
    }

    /// Leaves nothing behind: connections told and closed, processes ended, descriptors closed.
    pub(super) async fn end(self) {
        let Self { outlets, mut pushes, requests, shell, mut leaders, groups, command, .. } = self;
        // Those who wait for a command hear now that there is nobody to answer.
        drop(requests);
        leaders.extend(living(groups));
        // What is under way first: an answer, a last error. One slow connection does not keep the others.
        let told = async { while pushes.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, told).await.is_err() {
            tracing::warn!("connections could not be told of the session's end in time");
        }
        let closing: JoinSet<_> = outlets.into_values().map(|outlet| close(outlet, None, None)).collect();
        if tokio::time::timeout(FAREWELL, closing.join_all()).await.is_err() {
            tracing::warn!("connections could not be deleted in time");
        }
        if let Some(running) = command {
            running.abort();
        }
        // Closing the terminal is the hangup that shells know; the rest is for those that do not care.
        let Shell { reader, writer, mut child, .. } = shell;
        drop((reader, writer));
        launcher::end_all(leaders).await;
        // Its status is of no interest now, but nobody else would reap it.
        let _ = tokio::time::timeout(FAREWELL, child.wait()).await;
    }
}
