//! Injected faults: which ones, how often, and when, all drawn from one seed.
//!
//! Each purpose has its own random sequence. A seed thus gives the same decision for, say, the n-th push, whatever
//! else happens in between.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use clap::Args;
use parking_lot::{Mutex, RwLock};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

/// Fault settings. JSON as in the wire contract, section 8; the flags have the same names in kebab case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultSettings {
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds each `$default` invocation is held back
    #[arg(long, default_value_t = 0)]
    pub delay_ms: u64,
    /// Share of `$default` invocations held back until a later one overtook them
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub reorder: f64,
    /// Share of `$default` events delivered twice
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub repeat: f64,
    /// Share of `$default` events never delivered; the client is not told
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub drop: f64,
    /// Share of POSTs to `@connections` that fail
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub push_fail: f64,
    /// Share of the failing POSTs that are delivered anyway
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub push_fail_after_delivery: f64,
    /// Status of failing POSTs; 0: 429, 500, 410 in turn
    #[arg(long, default_value_t = 0)]
    pub push_fail_status: u16,
    /// Mean age in milliseconds at which connections are cut (each at 50 to 150 % of it); 0: never
    #[arg(long, default_value_t = 0)]
    pub cut_every_ms: u64,
    /// Messages, both ways together, after which a connection is cut; 0: never
    #[arg(long, default_value_t = 0)]
    pub cut_every_frames: u64,
    /// Cut by TCP reset instead of a close frame 1001
    #[arg(long)]
    pub cut_abruptly: bool,
    /// Share of `$disconnect` events never delivered
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub drop_disconnect: f64,
    /// Milliseconds after which a function process is killed in mid-invocation, again and again; 0: never
    #[arg(long, default_value_t = 0)]
    pub kill_function_every_ms: u64,
    /// Milliseconds after each start at which the backend is killed; it starts again; 0: never
    #[arg(long, default_value_t = 0)]
    pub kill_backend_every_ms: u64,
}

impl Default for FaultSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            delay_ms: 0,
            reorder: 0.0,
            repeat: 0.0,
            drop: 0.0,
            push_fail: 0.0,
            push_fail_after_delivery: 0.0,
            push_fail_status: 0,
            cut_every_ms: 0,
            cut_every_frames: 0,
            cut_abruptly: false,
            drop_disconnect: 0.0,
            kill_function_every_ms: 0,
            kill_backend_every_ms: 0,
        }
    }
}

impl FaultSettings {
    /// Checks that shares are from 0 to 1 and that the status is an error.
    pub fn validate(&self) -> Result<(), String> {
        let shares = [
            ("reorder", self.reorder),
            ("repeat", self.repeat),
            ("drop", self.drop),
            ("pushFail", self.push_fail),
            ("pushFailAfterDelivery", self.push_fail_after_delivery),
            ("dropDisconnect", self.drop_disconnect),
        ];
        for (name, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} must be from 0 to 1"));
            }
        }
        if self.push_fail_status != 0 && !(400..=599).contains(&self.push_fail_status) {
            return Err("pushFailStatus must be 0 or from 400 to 599".to_owned());
        }
        Ok(())
    }
}

/// The faults of one `$default` event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// Never delivered.
    pub dropped: bool,
    /// Delivered twice.
    pub repeated: bool,
    /// Held back until a later event has overtaken it.
    pub held: bool,
    /// Delivered this much later.
    pub delay: Duration,
}

/// How a POST to `@connections` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushFailure {
    /// Status of the response.
    pub status: u16,
    /// Whether the client gets the message anyway.
    pub delivered: bool,
}

/// The faults in force, and the random numbers that decide.
#[derive(Debug)]
pub struct Faults {
    settings: watch::Sender<FaultSettings>,
    /// Whether any setting concerns messages. Spares each message the lock.
    messages: AtomicBool,
    cut_every_frames: AtomicU64,
    random: RwLock<Generators>,
    push_turn: AtomicU64,
}

/// One generator for each purpose.
#[derive(Debug)]
struct Generators {
    message: Generator,
    push: Generator,
    cut: Generator,
    disconnect: Generator,
    kill: Generator,
}

impl Generators {
    fn new(seed: u64) -> Self {
        // The purpose goes into the upper half, so that seeds 1 and 2 share no generator.
        let generator = |purpose: u64| Generator(Mutex::new(StdRng::seed_from_u64(seed ^ (purpose << 32))));
        Self {
            message: generator(0),
            push: generator(1),
            cut: generator(2),
            disconnect: generator(3),
            kill: generator(4),
        }
    }
}

#[derive(Debug)]
struct Generator(Mutex<StdRng>);

impl Generator {
    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock())
    }
}

impl Faults {
    /// Faults as configured.
    pub fn new(settings: FaultSettings) -> Self {
        Self {
            messages: AtomicBool::new(concerns_messages(&settings)),
            cut_every_frames: AtomicU64::new(settings.cut_every_frames),
            random: RwLock::new(Generators::new(settings.seed)),
            settings: watch::Sender::new(settings),
            push_turn: AtomicU64::new(0),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> FaultSettings {
        self.settings.borrow().clone()
    }

    /// Puts other settings in force. `reseed` restarts all random sequences.
    pub fn replace(&self, settings: FaultSettings, reseed: bool) {
        if reseed {
            *self.random.write() = Generators::new(settings.seed);
            self.push_turn.store(0, Ordering::Relaxed);
        }
        self.messages.store(concerns_messages(&settings), Ordering::Relaxed);
        self.cut_every_frames.store(settings.cut_every_frames, Ordering::Relaxed);
        self.settings.send_replace(settings);
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> watch::Receiver<FaultSettings> {
        self.settings.subscribe()
    }

    /// Waits until a backend that started at `start` is to be killed.
    pub async fn backend_kill(&self, start: Instant) {
        let mut changes = self.changes();
        loop {
            let every = Duration::from_millis(changes.borrow_and_update().kill_backend_every_ms);
            tokio::select! {
                () = tokio::time::sleep_until(start + every), if !every.is_zero() => return,
                changed = changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Draws the faults of the next `$default` event.
    pub fn message(&self) -> Fate {
        if !self.messages.load(Ordering::Relaxed) {
            return Fate::default();
        }
        let settings = self.settings();
        // Always three numbers, so that changing one share does not change the decisions of the others.
        let [dropped, repeated, held] = self.random.read().message.draw(|random| {
            [settings.drop, settings.repeat, settings.reorder].map(|share| random.random_bool(share))
        });
        Fate { dropped, repeated, held, delay: Duration::from_millis(settings.delay_ms) }
    }

    /// Draws whether the next POST to `@connections` fails.
    pub fn push(&self) -> Option<PushFailure> {
        let settings = self.settings.borrow();
        if settings.push_fail <= 0.0 {
            return None;
        }
        let [fails, delivered] = self.random.read().push.draw(|random| {
            [settings.push_fail, settings.push_fail_after_delivery].map(|share| random.random_bool(share))
        });
        let status = match settings.push_fail_status {
            0 if fails => match self.push_turn.fetch_add(1, Ordering::Relaxed) % 3 {
                0 => 429,
                1 => 500,
                _ => 410,
            },
            status => status,
        };
        fails.then_some(PushFailure { status, delivered })
    }

    /// Messages after which a connection is cut; 0: never.
    pub fn cut_every_frames(&self) -> u64 {
        self.cut_every_frames.load(Ordering::Relaxed)
    }

    /// Draws the age at which a connection is cut, if there is one.
    pub fn cut_age(&self) -> Option<Duration> {
        let mean = self.settings.borrow().cut_every_ms;
        if mean == 0 {
            return None;
        }
        let factor: f64 = self.random.read().cut.draw(|random| random.random_range(0.5..1.5));
        Some(Duration::from_millis(mean).mul_f64(factor))
    }

    /// Draws whether the next `$disconnect` event is lost.
    pub fn disconnect_lost(&self) -> bool {
        let share = self.settings.borrow().drop_disconnect;
        share > 0.0 && self.random.read().disconnect.draw(|random| random.random_bool(share))
    }

    /// Draws the time into an invocation at which its process is killed.
    pub fn kill_after(&self) -> Duration {
        self.random.read().kill.draw(|random| Duration::from_micros(random.random_range(0..3000)))
    }
}

fn concerns_messages(settings: &FaultSettings) -> bool {
    settings.drop > 0.0 || settings.repeat > 0.0 || settings.reorder > 0.0 || settings.delay_ms > 0
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is not a share from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> FaultSettings {
        FaultSettings {
            seed: 7,
            drop: 0.3,
            repeat: 0.3,
            reorder: 0.3,
            push_fail: 0.5,
            cut_every_ms: 100,
            ..Default::default()
        }
    }

    #[test]
    fn a_seed_repeats_every_decision() {
        let decisions = |faults: &Faults| {
            let fates: Vec<Fate> = (0..200).map(|_| faults.message()).collect();
            let pushes: Vec<_> = (0..200).map(|_| faults.push()).collect();
            let ages: Vec<_> = (0..20).map(|_| faults.cut_age()).collect();
            (fates, pushes, ages)
        };
        let faults = Faults::new(settings());
        let first = decisions(&faults);
        assert_eq!(first, decisions(&Faults::new(settings())));
        assert_ne!(first, decisions(&Faults::new(FaultSettings { seed: 8, ..settings() })));
        faults.replace(settings(), true);
        assert_eq!(first, decisions(&faults));
    }

    #[test]
    fn one_purpose_does_not_disturb_another() {
        let (quiet, busy) = (Faults::new(settings()), Faults::new(settings()));
        let expected: Vec<_> = (0..50).map(|_| quiet.push()).collect();
        let found: Vec<_> = (0..50)
            .map(|_| {
                busy.message();
                busy.push()
            })
            .collect();
        assert_eq!(expected, found);
    }

    #[test]
    fn failing_pushes_take_turns() {
        let faults = Faults::new(FaultSettings { push_fail: 1.0, ..Default::default() });
        let statuses: Vec<u16> = (0..4).filter_map(|_| faults.push()).map(|failure| failure.status).collect();
        assert_eq!(statuses, [429, 500, 410, 429]);
    }

    #[test]
    fn there_are_no_faults_by_default() {
        let faults = Faults::new(FaultSettings::default());
        assert_eq!((faults.message(), faults.push(), faults.cut_age()), (Fate::default(), None, None));
        assert!(!faults.disconnect_lost());
    }
}
