//! Injected faults: which ones, how often, and when, all drawn from one seed.
//!
//! Each purpose has its own random sequence. A seed thus gives the same decision for, say, the n-th push, whatever
//! else happens in between.

mod settings;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

pub use settings::FaultSettings;

/// Faults of Redis that wait.
const REDIS_FAULTS: usize = 16;

/// A fault of Redis that happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisFault {
    /// It stands still.
    Pause(Duration),
    /// It loses everything.
    Flush,
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
    /// Backends that the stack has; with several there is a Redis.
    instances: usize,
    redis: broadcast::Sender<RedisFault>,
}

/// One generator for each purpose.
#[derive(Debug)]
struct Generators {
    message: Generator,
    push: Generator,
    cut: Generator,
    disconnect: Generator,
    kill: Generator,
    instance: Generator,
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
            instance: generator(5),
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
    /// Faults as configured, of a stack with this many backends.
    pub fn new(settings: FaultSettings, instances: usize) -> Self {
        Self {
            messages: AtomicBool::new(concerns_messages(&settings)),
            cut_every_frames: AtomicU64::new(settings.cut_every_frames),
            random: RwLock::new(Generators::new(settings.seed)),
            settings: watch::Sender::new(settings),
            push_turn: AtomicU64::new(0),
            instances,
            redis: broadcast::Sender::new(REDIS_FAULTS),
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> FaultSettings {
        self.settings.borrow().clone()
    }

    /// Checks settings, also against the stack.
    pub fn check(&self, settings: &FaultSettings) -> Result<(), String> {
        settings.validate()?;
        if let Some(unknown) = settings.partition.iter().find(|instance| **instance >= self.instances) {
            return Err(format!("partition: there is no instance {unknown}"));
        }
        let redis = settings.redis_pause_ms > 0 || settings.redis_flush || !settings.partition.is_empty();
        if redis && self.instances < 2 {
            return Err("without --instances there is no Redis".to_owned());
        }
        Ok(())
    }

    /// Puts other settings in force. `reseed` restarts all random sequences. What happens once happens now, and is not
    /// kept.
    pub fn replace(&self, mut settings: FaultSettings, reseed: bool) {
        let pause = Duration::from_millis(std::mem::take(&mut settings.redis_pause_ms));
        if !pause.is_zero() {
            // Without a receiver the stack is stopping.
            let _stopping = self.redis.send(RedisFault::Pause(pause));
        }
        if std::mem::take(&mut settings.redis_flush) {
            let _stopping = self.redis.send(RedisFault::Flush);
        }
        if reseed {
            *self.random.write() = Generators::new(settings.seed);
            self.push_turn.store(0, Ordering::Relaxed);
        }
        self.messages.store(concerns_messages(&settings), Ordering::Relaxed);
        self.cut_every_frames.store(settings.cut_every_frames, Ordering::Relaxed);
        self.settings.send_replace(settings);
    }

    /// The faults of Redis from now on.
    pub fn of_redis(&self) -> broadcast::Receiver<RedisFault> {
        self.redis.subscribe()
    }

    /// Waits until the time that `every` gives, in milliseconds, has passed since `since`; 0: for ever.
    pub async fn due(&self, since: Instant, every: impl Fn(&FaultSettings) -> u64) {
        let mut changes = self.changes();
        loop {
            let every = Duration::from_millis(every(&changes.borrow_and_update()));
            tokio::select! {
                () = tokio::time::sleep_until(since + every), if !every.is_zero() => return,
                changed = changes.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    /// Whether the load balancer ignores its cookies.
    pub fn spreads_requests(&self) -> bool {
        self.settings.borrow().spread_requests
    }

    /// Draws an instance.
    pub fn instance(&self) -> usize {
        self.random.read().instance.draw(|random| random.random_range(0..self.instances.max(1)))
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> watch::Receiver<FaultSettings> {
        self.settings.subscribe()
    }

    /// Waits until a backend that started at `start` is to be killed.
    pub async fn backend_kill(&self, start: Instant) {
        self.due(start, |settings| settings.kill_backend_every_ms).await;
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
        let faults = Faults::new(settings(), 1);
        let first = decisions(&faults);
        assert_eq!(first, decisions(&Faults::new(settings(), 1)));
        assert_ne!(first, decisions(&Faults::new(FaultSettings { seed: 8, ..settings() }, 1)));
        faults.replace(settings(), true);
        assert_eq!(first, decisions(&faults));
    }

    #[test]
    fn one_purpose_does_not_disturb_another() {
        let (quiet, busy) = (Faults::new(settings(), 1), Faults::new(settings(), 1));
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
        let faults = Faults::new(FaultSettings { push_fail: 1.0, ..Default::default() }, 1);
        let statuses: Vec<u16> = (0..4).filter_map(|_| faults.push()).map(|failure| failure.status).collect();
        assert_eq!(statuses, [429, 500, 410, 429]);
    }

    #[test]
    fn there_are_no_faults_by_default() {
        let faults = Faults::new(FaultSettings::default(), 1);
        assert_eq!((faults.message(), faults.push(), faults.cut_age()), (Fate::default(), None, None));
        assert!(!faults.disconnect_lost());
    }

    #[test]
    fn what_happens_once_is_not_kept() {
        let faults = Faults::new(FaultSettings::default(), 3);
        let mut of_redis = faults.of_redis();
        let once = FaultSettings { redis_pause_ms: 5, redis_flush: true, ..Default::default() };
        faults.check(&once).unwrap();
        faults.replace(once, false);
        assert_eq!(of_redis.try_recv(), Ok(RedisFault::Pause(Duration::from_millis(5))));
        assert_eq!(of_redis.try_recv(), Ok(RedisFault::Flush));
        assert_eq!(faults.settings(), FaultSettings::default());
    }

    #[test]
    fn only_instances_that_exist_are_cut_off() {
        let partition = |instance| FaultSettings { partition: vec![instance], ..Default::default() };
        assert!(Faults::new(partition(2), 3).check(&partition(2)).is_ok());
        assert!(Faults::new(partition(3), 3).check(&partition(3)).is_err());
        assert!(Faults::new(partition(0), 1).check(&partition(0)).is_err());
    }
}
