//! Closed and open loops over many connections, and their latencies.

use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Longest latency recorded, µs; longer ones are clamped.
const MAX_MICROS: u64 = 60_000_000;

/// An operation repeated on one connection.
pub trait Exchange: Send + 'static {
    /// Runs the operation once. Work that must not be measured belongs in [`Exchange::between`].
    fn exchange(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Runs before each exchange, unmeasured.
    fn between(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }
}

/// Duration and rate of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Warm-up time.
    pub warm: Duration,
    /// Measured time.
    pub measure: Duration,
    /// Exchanges per second over all connections, in an open loop: latency counts from an exchange's scheduled start.
    /// `None` is a closed loop, in which each connection waits for the last answer.
    pub rate: Option<f64>,
}

/// A histogram of latencies and the time measured.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// µs
    histogram: Histogram<u64>,
    seconds: f64,
}

impl Latencies {
    fn new(measure: Duration) -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_bounds(1, MAX_MICROS, 3).context("bounds of the histogram")?;
        Ok(Self { histogram, seconds: measure.as_secs_f64() })
    }

    fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_MICROS).max(1));
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.histogram.add(&other.histogram).context("adding histograms")?;
        self.seconds += other.seconds;
        Ok(())
    }

    /// A quantile from 0 to 1, ms.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a minute in µs is far below 2^53")]
        let micros = self.histogram.value_at_quantile(quantile) as f64;
        micros / 1_000.0
    }

    /// Number of exchanges measured.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Exchanges per second.
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
        let count = self.count() as f64;
        count / self.seconds
    }
}

/// Runs all connections, one task each. Calls `edge` when the measured time starts and ends.
pub async fn run<E: Exchange>(
    connections: Vec<E>,
    plan: Plan,
    mut edge: impl FnMut(),
) -> anyhow::Result<(Latencies, Vec<E>)> {
    let begin = Instant::now() + plan.warm;
    let end = begin + plan.measure;
    #[expect(clippy::cast_precision_loss, reason = "few connections")]
    let count = connections.len() as f64;
    let every = plan.rate.map(|rate| Duration::from_secs_f64(count / rate));
    let mut tasks = JoinSet::new();
    for (connection, index) in connections.into_iter().zip(0_u32..) {
        // Staggers the connections over the interval.
        let pace = every.map(|every| (Instant::now() + every.mul_f64(f64::from(index) / count), every));
        tasks.spawn(one(connection, begin, end, pace));
    }
    sleep_until(begin).await;
    edge();
    sleep_until(end).await;
    edge();
    let mut all = Latencies::new(plan.measure)?;
    let mut connections = Vec::new();
    while let Some(finished) = tasks.join_next().await {
        let (latencies, connection) = finished??;
        all.histogram.add(&latencies.histogram).context("adding histograms")?;
        connections.push(connection);
    }
    Ok((all, connections))
}

async fn one<E: Exchange>(
    mut connection: E,
    begin: Instant,
    end: Instant,
    mut pace: Option<(Instant, Duration)>,
) -> anyhow::Result<(Latencies, E)> {
    let mut latencies = Latencies::new(end - begin)?;
    loop {
        connection.between().await?;
        let meant = match &mut pace {
            Some((next, every)) => {
                let meant = *next;
                *next += *every;
                sleep_until(meant).await;
                meant
            }
            None => Instant::now(),
        };
        if Instant::now() >= end {
            return Ok((latencies, connection));
        }
        connection.exchange().await?;
        let now = Instant::now();
        // Exchanges that end in the measured time count, so that rates and CPU time cover the same frames.
        if now >= begin && now < end {
            latencies.record(now - meant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers at once, except for one long pause.
    struct Stalls {
        pause_at: Instant,
        paused: bool,
    }

    impl Exchange for Stalls {
        async fn exchange(&mut self) -> anyhow::Result<()> {
            if !self.paused && Instant::now() >= self.pause_at {
                self.paused = true;
                tokio::time::sleep(Duration::from_secs(1)).await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        }
    }

    async fn measured(rate: Option<f64>) -> Latencies {
        let pause_at = Instant::now() + Duration::from_secs(2);
        let plan = Plan { warm: Duration::from_secs(1), measure: Duration::from_secs(10), rate };
        run(vec![Stalls { pause_at, paused: false }], plan, || {}).await.unwrap().0
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_loop_counts_every_exchange_delayed_by_a_pause() {
        let latencies = measured(Some(100.0)).await;
        // A hundred exchanges were due in that second; half of them waited for more than half of it.
        assert!(latencies.quantile_ms(0.99) > 400.0, "{}", latencies.quantile_ms(0.99));
        assert!((900..=1_000).contains(&latencies.count()), "{}", latencies.count());
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_counts_a_pause_once() {
        let latencies = measured(None).await;
        assert!(latencies.quantile_ms(0.999) < 10.0 && latencies.quantile_ms(1.0) > 900.0);
        assert!((latencies.rate() - 900.0).abs() < 20.0, "{}", latencies.rate());
    }
}
