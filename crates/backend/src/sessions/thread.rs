//! The thread that follows the screens of all sessions, in turns.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{LazyLock, mpsc},
};

use rustix::process::setpriority_process;
use shellbridge_session::Work;
use tokio::sync::oneshot;

/// How much others go first, in steps of `nice`: workers wait for nothing that a screen needs.
const NICE: i32 = 10;

type Turn = (Box<Work>, oneshot::Sender<Box<Work>>);

static TURNS: LazyLock<mpsc::Sender<Turn>> = LazyLock::new(|| {
    let (turns, taken) = mpsc::channel::<Turn>();
    let started = std::thread::Builder::new().name("screens".to_owned()).spawn(move || {
        // On Linux, of the thread that asks (setpriority(2), "C library/kernel differences").
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::warn!(%error, "screens are followed at the workers' own priority");
        }
        for (mut work, done) in taken {
            // A fault in one session's model is that session's: its turn never comes back.
            if catch_unwind(AssertUnwindSafe(|| work.run())).is_ok() {
                // The session may have ended.
                let _ = done.send(work);
            }
        }
    });
    if let Err(error) = started {
        tracing::error!(%error, "no thread for the screens");
    }
    turns
});

/// Does a turn. Each session has one at a time, so that they take turns.
///
/// # Errors
/// When the model has failed.
pub(super) fn turn(work: Box<Work>) -> oneshot::Receiver<Box<Work>> {
    let (done, followed) = oneshot::channel();
    // Without a thread, `done` is dropped, and whoever waits hears of that.
    let _ = TURNS.send((work, done));
    followed
}
