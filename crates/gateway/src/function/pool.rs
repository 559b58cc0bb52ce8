//! The queue between invocations and function processes: one event per process at a time, as on Lambda.
//!
//! All processes start at once (Lambda's provisioned concurrency). Started lazily, they would add a cold start to an
//! arbitrary frame, of a duration that says nothing about AWS. The process that was busy last gets the next event,
//! because its caches are the warmest.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use shellbridge_protocol::times::UnixMs;
use tokio::sync::{Notify, oneshot};

use super::FunctionError;
use crate::{clock, counters::Counters, faults::Faults, id};

/// Most queued invocations. Lambda throttles without a queue, as soon as its concurrency is used up.
const MAX_WAITING: usize = 10_000;

/// Settings of a pool and its processes.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// The function's executable, a script such as Lambda's `bootstrap` included; an absolute path.
    pub program: PathBuf,
    /// Name of the function, for its environment and ARN.
    pub name: String,
    /// Region of the ARN.
    pub region: String,
    /// Variables set on top of the inherited environment, beside those of Lambda.
    pub environment: Vec<(String, String)>,
    /// Timeout of an invocation.
    pub timeout: Duration,
    /// Limit on a process's resident memory, bytes.
    pub memory: u64,
}

/// Function processes and the events queued for them.
#[derive(Debug)]
pub struct Pool {
    pub(super) settings: PoolSettings,
    pub(super) counters: Arc<Counters>,
    pub(super) slots: Vec<Slot>,
    faults: Arc<Faults>,
    queue: Mutex<Queue>,
    /// Whether a fault kills the next invocation's process.
    kill_next: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Invocation>,
    /// Processes waiting for an event, the most recent last.
    idle: Vec<(usize, oneshot::Sender<Invocation>)>,
    /// Slots whose process exited before its first event, and is waiting to be restarted.
    broken: usize,
}

/// An event, and where its response goes.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) event: Bytes,
    reply: oneshot::Sender<Result<Bytes, FunctionError>>,
}

/// A place for one process at a time.
#[derive(Debug)]
pub(super) struct Slot {
    /// Address of its Runtime API.
    pub(super) runtime_api: SocketAddr,
    in_flight: Mutex<Option<InFlight>>,
    /// Whether the process has asked for an event since it started.
    initialised: AtomicBool,
    /// Requests the supervisor to kill the process.
    pub(super) kill: Notify,
}

#[derive(Debug)]
struct InFlight {
    request_id: String,
    begun: Instant,
    deadline: Instant,
    reply: oneshot::Sender<Result<Bytes, FunctionError>>,
}

/// An event with what the Runtime API sends along.
#[derive(Debug)]
pub(super) struct NextEvent {
    pub(super) event: Bytes,
    pub(super) request_id: String,
    /// `Lambda-Runtime-Deadline-Ms`: the time at which the process is killed.
    pub(super) deadline: UnixMs,
}

impl Pool {
    /// A pool with one slot per Runtime API address.
    pub fn new(
        settings: PoolSettings,
        apis: &[SocketAddr],
        counters: Arc<Counters>,
        faults: Arc<Faults>,
    ) -> Self {
        let slots = apis
            .iter()
            .map(|&runtime_api| Slot {
                runtime_api,
                in_flight: Mutex::default(),
                initialised: AtomicBool::new(false),
                kill: Notify::new(),
            })
            .collect();
        Self { settings, counters, slots, faults, queue: Mutex::default(), kill_next: AtomicBool::new(false) }
    }

    /// Gives an event to a process, or queues it until one is free, and waits for the response.
    pub async fn invoke(&self, event: Bytes) -> Result<Bytes, FunctionError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Invocation { event, reply })?;
        answer.await.unwrap_or(Err(FunctionError::Exited))
    }

    fn submit(&self, mut invocation: Invocation) -> Result<(), FunctionError> {
        let mut queue = self.queue.lock();
        while let Some((_, process)) = queue.idle.pop() {
            // If the process died while it waited, the event comes back.
            match process.send(invocation) {
                Ok(()) => return Ok(()),
                Err(back) => invocation = back,
            }
        }
        if queue.broken >= self.slots.len() {
            return Err(FunctionError::NotStarted);
        }
        if queue.waiting.len() >= MAX_WAITING {
            return Err(FunctionError::Throttled);
        }
        queue.waiting.push_back(invocation);
        Ok(())
    }

    /// The next event for a process. Returns `None` if the process asked twice.
    pub(super) async fn next(self: &Arc<Self>, index: usize) -> Option<NextEvent> {
        let slot = self.slots.get(index)?;
        if !slot.initialised.swap(true, Ordering::Relaxed) {
            self.counters.cold_starts.increment();
        }
        // Asking for the next event without a response abandons the last one.
        self.finish(slot, None, Err(FunctionError::Exited));
        loop {
            let waiter = {
                let mut queue = self.queue.lock();
                // Drop what exceeded its integration timeout in the queue.
                while queue.waiting.front().is_some_and(|invocation| invocation.reply.is_closed()) {
                    queue.waiting.pop_front();
                }
                if let Some(invocation) = queue.waiting.pop_front() {
                    drop(queue);
                    return Some(self.begin(index, slot, invocation));
                }
                let (sender, receiver) = oneshot::channel();
                queue.idle.retain(|(other, _)| *other != index);
                queue.idle.push((index, sender));
                receiver
            };
            // The sender is dropped only if the process exited or asked twice.
            let invocation = waiter.await.ok()?;
            if !invocation.reply.is_closed() {
                return Some(self.begin(index, slot, invocation));
            }
        }
    }

    fn begin(self: &Arc<Self>, index: usize, slot: &Slot, invocation: Invocation) -> NextEvent {
        let request_id = id::random_uuid().to_string();
        let timeout = self.settings.timeout;
        let deadline = clock::unix_ms().saturating_add(timeout);
        let begun = Instant::now();
        *slot.in_flight.lock() = Some(InFlight {
            request_id: request_id.clone(),
            begun,
            deadline: begun + timeout,
            reply: invocation.reply,
        });
        if self.kill_next.swap(false, Ordering::Relaxed) {
            tokio::spawn(Arc::clone(self).kill_midway(index, request_id.clone()));
        }
        NextEvent { event: invocation.event, request_id, deadline }
    }

    /// Kills a process while it handles an event. If the event was handled sooner, the next one is chosen.
    async fn kill_midway(self: Arc<Self>, index: usize, request_id: String) {
        tokio::time::sleep(self.faults.kill_after()).await;
        match self.slots.get(index) {
            Some(slot) if slot.handles(&request_id) => slot.kill.notify_one(),
            _ => self.kill_next.store(true, Ordering::Relaxed),
        }
    }

    /// Kills processes during invocations at the interval that the faults set, until dropped.
    pub(super) async fn kill_regularly(self: Arc<Self>) {
        const POLL_INTERVAL: Duration = Duration::from_millis(20);
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let every = self.faults.settings().kill_function_every_ms;
            if every == 0 {
                self.kill_next.store(false, Ordering::Relaxed);
                last = Instant::now();
            } else if last.elapsed() >= Duration::from_millis(every) {
                self.kill_next.store(true, Ordering::Relaxed);
                last = Instant::now();
            }
        }
    }

    /// Completes an invocation. Returns false if it is not in flight in this process.
    pub(super) fn answer(
        &self,
        index: usize,
        request_id: &str,
        result: Result<Bytes, FunctionError>,
    ) -> bool {
        self.slots.get(index).is_some_and(|slot| self.finish(slot, Some(request_id), result))
    }

    /// Fails what a process that exited had in flight. Returns whether it had ever asked for an event.
    pub(super) fn ended(&self, index: usize, slot: &Slot, timed_out: bool) -> bool {
        let error = if timed_out { FunctionError::TimedOut } else { FunctionError::Exited };
        self.finish(slot, None, Err(error));
        self.queue.lock().idle.retain(|(other, _)| *other != index);
        slot.initialised.load(Ordering::Relaxed)
    }

    /// Marks a process as failed to start, or as about to be restarted. While all have failed, queued events fail at
    /// once, as on Lambda.
    pub(super) fn broken(&self, broken: bool) {
        let mut queue = self.queue.lock();
        if broken {
            queue.broken += 1;
            if queue.broken >= self.slots.len() {
                for invocation in queue.waiting.drain(..) {
                    let _gone = invocation.reply.send(Err(FunctionError::NotStarted));
                }
            }
        } else {
            queue.broken = queue.broken.saturating_sub(1);
        }
    }

    /// Completes the invocation in flight, if it has this id or if no id is given.
    fn finish(&self, slot: &Slot, request_id: Option<&str>, result: Result<Bytes, FunctionError>) -> bool {
        let mut in_flight = slot.in_flight.lock();
        let Some(flight) = in_flight.take_if(|flight| request_id.is_none_or(|id| id == flight.request_id))
        else {
            return false;
        };
        drop(in_flight);
        self.counters.invocation(flight.begun.elapsed());
        // The caller is gone if its integration timeout has passed.
        let _gone = flight.reply.send(result);
        true
    }
}

impl Slot {
    /// Prepares for a new process.
    pub(super) fn starting(&self) {
        self.initialised.store(false, Ordering::Relaxed);
    }

    /// Whether the event in flight has passed its deadline.
    pub(super) fn overdue(&self) -> bool {
        self.in_flight.lock().as_ref().is_some_and(|in_flight| Instant::now() >= in_flight.deadline)
    }

    fn handles(&self, request_id: &str) -> bool {
        self.in_flight.lock().as_ref().is_some_and(|in_flight| in_flight.request_id == request_id)
    }
}
