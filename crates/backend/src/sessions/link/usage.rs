//! Asks the host what its session uses.

use shellbridge_session::link::{Measure, Measured};
use tokio::sync::oneshot;

use super::Task;
use crate::launcher::Sandbox;

/// Minor version of the first hosts that measure.
const MEASURES: u16 = 1;
/// Requests that may wait for one measurement.
const MAX_WAITING: usize = 64;

/// Waiters for measurements, by the number of the request to the host.
pub(super) type Measures = Vec<(u64, oneshot::Sender<Measured>)>;

impl Task {
    /// Requests a measurement, or waits for the pending one. Drops `reply` if the host cannot measure.
    pub(super) fn measure(&mut self, reply: oneshot::Sender<Measured>) {
        // Those that have timed out. A host that answers late, or never, holds nothing.
        self.measures.retain(|(_, reply)| !reply.is_closed());
        let able = self.stream.channel().other().is_some_and(|host| host.minor >= MEASURES);
        if !able || self.measures.len() >= MAX_WAITING {
            return;
        }
        let pending = self.measures.last().map(|(request, _)| *request);
        let request = pending.unwrap_or_else(|| {
            let request = self.number();
            // Without a sandbox, the home is not the session's alone.
            self.say(Measure { request, disk: self.status.room.sandbox != Sandbox::None });
            request
        });
        self.measures.push((request, reply));
    }

    /// Passes a measurement on; false if nothing waits for it.
    pub(super) fn measured(&mut self, measured: Measured) -> bool {
        let (mine, others): (Measures, Measures) = std::mem::take(&mut self.measures)
            .into_iter()
            .partition(|(request, _)| *request == measured.request);
        self.measures = others;
        let waited = !mine.is_empty();
        for (_, reply) in mine {
            // The waiter may have timed out.
            let _ = reply.send(measured);
        }
        waited
    }
}
