//! The screen model, updated on another thread within a budget.
//!
//! [`Model`] queues output, resizes and pictures in order; [`Work::run`] processes one turn of them on the thread.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use shellbridge_protocol::{size::Size, stream::OutputLog, times::Epoch};

use crate::{screen::Screen, snapshot::Picture};

/// Cells that the model of one session may touch per second, saved up for at most a second: a fifth of a core, or a dozen
/// megabytes of coloured text. A flood of short sequences that each redraw the whole screen exhausts it at once.
const CELLS: i64 = 100_000_000;
/// Cells of one turn: 2 ms, so that many models share a thread.
const TURN: i64 = 1_000_000;
/// Output that may wait for the model, bytes: 20 ms of plain text.
const MAX_WAITING: usize = 1024 * 1024;
/// How long the shell may wait for the model, and a client for a picture, before the model skips its backlog: the thread or
/// the machine may be busy.
const HELD: Duration = Duration::from_millis(200);
const WAITED: Duration = Duration::from_millis(500);
/// Most queued resizes; beyond, a resize replaces the last one.
const MAX_STEPS: usize = 32;

/// The queue of the screen model.
pub(crate) struct Model {
    /// `None` while the thread has it.
    work: Option<Box<Work>>,
    /// The shell of the model.
    epoch: Epoch,
    steps: VecDeque<(u64, Step)>,
    /// The first byte not passed to the work.
    taken: u64,
    /// Whether all later bytes are plain text.
    plain: bool,
    waiting: usize,
    /// Remaining budget in cells; negative if the last turn exceeded it.
    cells: i64,
    /// When the budget was last refilled.
    counted: Duration,
    /// Since when the shell has waited, and since when a client has waited for a picture.
    held_since: Option<Duration>,
    waited_since: Option<Duration>,
}

/// A step between two pieces of output.
enum Step {
    Resize(Size),
    /// Skipped once no client needs the picture.
    Paint(Weak<Picture>),
}

/// The screen model, with output to process and the step after it: see [`Effect::Follow`](crate::Effect::Follow).
pub struct Work {
    epoch: Epoch,
    screen: Screen,
    bytes: Vec<u8>,
    /// Number of bytes processed.
    at: usize,
    /// Number of evicted bytes before these.
    gone: u64,
    /// Skip the remaining bytes.
    skips: bool,
    step: Option<Step>,
    spent: i64,
}

impl Model {
    pub(crate) fn new(size: Size, epoch: Epoch, output_buffer: usize) -> Self {
        Self {
            work: Some(Box::new(Work::new(size, epoch))),
            epoch,
            steps: VecDeque::new(),
            taken: 0,
            plain: true,
            waiting: output_buffer.clamp(1, MAX_WAITING),
            cells: CELLS,
            counted: Duration::ZERO,
            held_since: None,
            waited_since: None,
        }
    }

    /// Starts again for a new shell.
    pub(crate) fn restart(&mut self, size: Size, epoch: Epoch) {
        let (cells, counted) = (self.cells, self.counted);
        *self = Self { cells, counted, ..Self::new(size, epoch, self.waiting) };
    }

    /// Notes bytes that are appended to the log.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        self.plain &= Screen::is_plain(bytes);
    }

    /// Queues a resize at this offset of the output.
    pub(crate) fn resize(&mut self, at: u64, size: Size) {
        let many = self.steps.len() >= MAX_STEPS;
        match self.steps.back_mut() {
            Some(last @ (_, Step::Resize(_))) if many => *last = (at, Step::Resize(size)),
            _ => self.steps.push_back((at, Step::Resize(size))),
        }
    }

    /// The picture of the screen at `end`, where the output ends: `newest` if it is that one, since any number of viewers
    /// may be behind, and each must not cost a whole screen of time and memory. `newest` must be emptied when the screen
    /// changes otherwise than by output.
    pub(crate) fn picture(&mut self, newest: &mut Weak<Picture>, end: u64, size: Size) -> Arc<Picture> {
        if let Some(picture) = newest.upgrade().filter(|picture| picture.offset() == end) {
            return picture;
        }
        let picture = Arc::new(Picture::new(end, size));
        self.paint(end, &picture);
        *newest = Arc::downgrade(&picture);
        picture
    }

    /// The picture shows the screen as it is at this place in the output.
    fn paint(&mut self, at: u64, picture: &Arc<Picture>) {
        self.steps.retain(|(_, step)| step.is_needed());
        self.steps.push_back((at, Step::Paint(Arc::downgrade(picture))));
    }

    /// Number of bytes that the log may grow by before it could evict bytes that the model has not processed.
    pub(crate) fn room(&self, log: &OutputLog) -> usize {
        let waits = usize::try_from(log.end() - self.taken).unwrap_or(usize::MAX);
        self.waiting.saturating_sub(waits)
    }

    /// The next turn, if there is work and budget. Return it with [`Model::followed`].
    pub(crate) fn next(&mut self, log: &OutputLog, now: Duration) -> Option<Box<Work>> {
        self.count(now);
        let mut work = self.work.take()?;
        if work.is_done() {
            self.fill(&mut work, log);
        }
        let since = |was: Option<Duration>, is: bool| is.then(|| was.unwrap_or(now));
        self.held_since = since(self.held_since, self.room(log) == 0);
        self.waited_since = since(self.waited_since, self.is_waited_for(&work));
        let spent = self.cells <= 0;
        let late =
            |since: Option<Duration>, within| since.is_some_and(|since| spent || now >= since + within);
        if !work.is_done() {
            work.skips |= late(self.held_since, HELD) || late(self.waited_since, WAITED);
            if !spent {
                return Some(work);
            }
        }
        self.work = Some(work);
        None
    }

    /// When to call [`Model::next`] again after it returned `None`.
    pub(crate) fn due(&self, now: Duration) -> Option<Duration> {
        let work = self.work.as_ref()?;
        let wait =
            u64::try_from(1 - self.cells).unwrap_or(0) * 1_000_000 / u64::try_from(CELLS / 1000).ok()?;
        (!work.is_done()).then(|| now + Duration::from_nanos(wait))
    }

    /// A turn has run.
    pub(crate) fn followed(&mut self, work: Box<Work>) {
        self.cells -= work.spent;
        if work.epoch == self.epoch {
            self.work = Some(work);
        }
    }

    fn count(&mut self, now: Duration) {
        let since = i64::try_from(now.saturating_sub(self.counted).as_micros()).unwrap_or(i64::MAX);
        self.cells = self.cells.saturating_add(since.saturating_mul(CELLS / 1_000_000)).min(CELLS);
        self.counted = self.counted.max(now);
    }

    /// Whether a client waits for a picture that depends on this work.
    fn is_waited_for(&self, work: &Work) -> bool {
        let paints = |step: &Step| matches!(step, Step::Paint(_)) && step.is_needed();
        work.step.as_ref().is_some_and(paints) || self.steps.iter().any(|(_, step)| paints(step))
    }

    /// Passes the next output and step to the work. Plain text may wait, since it is cheaper in bulk.
    fn fill(&mut self, work: &mut Work, log: &OutputLog) {
        self.steps.retain(|(_, step)| step.is_needed());
        let end = self.steps.front().map_or(log.end(), |(at, _)| *at);
        if self.steps.is_empty() && (end == self.taken || (self.plain && self.room(log) > self.waiting / 2)) {
            return;
        }
        work.gone = log.lost(self.taken).min(end - self.taken);
        let (a, b) = log.since(self.taken + work.gone).unwrap_or_default();
        work.bytes.extend_from_slice(a);
        work.bytes.extend_from_slice(b);
        work.bytes.truncate(usize::try_from(end - self.taken - work.gone).unwrap_or(usize::MAX));
        work.at = 0;
        work.skips = false;
        self.taken = end;
        work.step = self.steps.pop_front().map(|(_, step)| step);
        self.plain = end == log.end() || self.plain;
    }
}

impl Step {
    fn is_needed(&self) -> bool {
        match self {
            Self::Resize(_) => true,
            Self::Paint(picture) => picture.strong_count() > 0,
        }
    }
}

/// Omits the shell's output.
impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("epoch", &self.epoch).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Work {
    fn new(size: Size, epoch: Epoch) -> Self {
        let screen = Screen::new(size);
        Self { epoch, screen, bytes: Vec::new(), at: 0, gone: 0, skips: false, step: None, spent: 0 }
    }

    fn is_done(&self) -> bool {
        self.gone == 0 && self.at == self.bytes.len() && self.step.is_none()
    }

    /// Runs one turn, a few milliseconds. May run on any thread.
    pub fn run(&mut self) {
        let mut cells = TURN;
        let gone = std::mem::take(&mut self.gone);
        if self.skips || gone > 0 {
            let (followed, rest) = self.bytes.split_at_checked(self.at).unwrap_or_default();
            let rest = if self.skips { rest } else { &[] };
            self.screen.skip(gone, rest);
            self.at = followed.len() + rest.len();
        }
        while cells > 0
            && let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())
        {
            self.at += self.screen.feed(rest, &mut cells);
        }
        if cells > 0 {
            match self.step.take() {
                Some(Step::Resize(size)) => cells -= self.screen.resize(size),
                Some(Step::Paint(picture)) => {
                    if let Some(picture) = picture.upgrade() {
                        cells -= self.screen.snapshot_cost();
                        picture.paint(&self.screen.snapshot());
                    }
                }
                None => {}
            }
        }
        if self.is_done() {
            // Frees the buffer: idle sessions would otherwise keep a megabyte each.
            self.bytes = Vec::new();
            self.at = 0;
        }
        self.spent = TURN - cells;
    }
}
