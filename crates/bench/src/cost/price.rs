//! AWS's prices, and the usage of two designs. us-east-1, on demand, first tier, without the free tier.

/// Date of the prices here and in `month.rs`. They come from archived copies of AWS's pages and, where a script inserts the
/// figure, from articles of 2026. Not verified against a bill.
pub(super) const PRICES_OF: &str = "us-east-1, on demand, first tier, as of November 2026";

/// API Gateway, WebSocket: a message of up to 32 KiB, in either direction. <https://aws.amazon.com/api-gateway/pricing/>
const MESSAGE: f64 = 1.00 / 1e6;
/// API Gateway, WebSocket: a minute of one connection. Same page.
const CONNECTION_MINUTE: f64 = 0.25 / 1e6;
/// Lambda: a request. <https://aws.amazon.com/lambda/pricing/>
const REQUEST: f64 = 0.20 / 1e6;
/// Lambda on arm64, the default of `template.yaml`: a GB-second, billed in steps of 1 ms. Same page.
const GB_SECOND_ARM: f64 = 0.000_013_333_4;
/// `DynamoDB`: a read request unit, a consistent read of up to 4 KB. <https://aws.amazon.com/dynamodb/pricing/on-demand/>
const READ_UNIT: f64 = 0.125 / 1e6;
/// `DynamoDB`: a write request unit, up to 1 KB. Same page.
const WRITE_UNIT: f64 = 0.625 / 1e6;
/// `CloudWatch` Logs: a GB taken in, standard class, also from Lambda. <https://aws.amazon.com/cloudwatch/pricing/>
const LOG_GB: f64 = 0.50;
/// A GB from API Gateway out to the internet; the first 100 GB of an account's month are free.
/// <https://aws.amazon.com/ec2/pricing/on-demand/>, "Data Transfer"
const OUT_GB: f64 = 0.09;
/// Application Load Balancer: an hour of one capacity unit, of which a GB is the dimension that counts here (25 new
/// connections or 1,000 rules a second, or 3,000 connections at once, are far away).
/// <https://aws.amazon.com/elasticloadbalancing/pricing/>
const LCU_HOUR: f64 = 0.008;

/// Memory of the function in GB: `MemorySize` of `template.yaml`.
const FUNCTION_MEMORY: f64 = 256.0 / 1024.0;
/// The smallest common size for the 140 MB that the original needs (issue 8).
const ORIGINAL_MEMORY: f64 = 256.0 / 1024.0;
/// A warm frame of the original, milliseconds (issue 8, measured on a machine of this class).
const ORIGINAL_FRAME_MS: f64 = 2.4;

/// Milliseconds that an invocation waits on AWS but not on a single machine. Low estimates, the same for both designs: a
/// request to a backend in the region over an open connection, ...
const NET_BACKEND_MS: f64 = 2.0;
/// ... a read of `DynamoDB`, which AWS states as "single-digit milliseconds", ...
const NET_DYNAMODB_MS: f64 = 3.0;
/// ... and `PostToConnection`.
const NET_PUSH_MS: f64 = 8.0;
/// The waits between a key and its echo, with the connection's record cached.
pub(super) const FRAME_WAITS_MS: f64 = NET_BACKEND_MS + NET_PUSH_MS;

/// Level and time, which Lambda adds to the function's lines in `CloudWatch` if `LogFormat` is `JSON`, as in
/// `template.yaml`. AWS does not document whether they are billed; they count here.
/// (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html>)
const ADDED_LOG: &str = r#","level":"INFO","timestamp":"2026-11-20T12:00:00.000Z""#;

/// Bytes of a frame's backend request through the load balancer: request and response with headers and TLS. A high
/// estimate, the same for both designs. Output goes from the backend to `@connections`, past the load balancer.
const BALANCED: f64 = 2_000.0;
/// Bytes around a chunk of output or an answer in the original: `{"type":"output","data":""}`, the smallest frame; JSON
/// escapes are not counted.
const ORIGINAL_ENVELOPE: f64 = 27.0;

/// Metered usage of an activity.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Messages in units of 32 KiB, in both directions.
    pub(super) messages: f64,
    /// Connection minutes.
    pub(super) minutes: f64,
    /// Invocations.
    pub(super) requests: f64,
    /// Price of the GB-seconds, dollars.
    pub(super) compute: f64,
    /// Read units.
    pub(super) reads: f64,
    /// Write units.
    pub(super) writes: f64,
    /// Bytes of logs.
    pub(super) log: f64,
    /// Bytes of messages to clients.
    pub(super) out: f64,
}

/// Metered counts of this design.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Metering {
    /// `meteredIn` and `meteredOut`.
    pub(super) messages: u64,
    /// Invocations of all routes.
    pub(super) invocations: u64,
    /// Invocations that posted an answer.
    pub(super) answered: u64,
    /// `billedMs`.
    pub(super) billed_ms: u64,
    /// `GetItem`
    pub(super) reads: u64,
    /// `PutItem` and `DeleteItem`
    pub(super) writes: u64,
    /// Bytes of the function's log.
    pub(super) log: u64,
    /// Lines of the function's log.
    pub(super) log_lines: u64,
    /// Bytes of the frames that the client received.
    pub(super) out: u64,
}

impl Metering {
    /// The counts times `times`.
    pub(super) const fn times(&self, times: u64) -> Self {
        Self {
            messages: self.messages * times,
            invocations: self.invocations * times,
            answered: self.answered * times,
            billed_ms: self.billed_ms * times,
            reads: self.reads * times,
            writes: self.writes * times,
            log: self.log * times,
            log_lines: self.log_lines * times,
            out: self.out * times,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
impl Usage {
    /// Usage of this design, from its counts.
    pub(super) fn measured(metering: &Metering, minutes: f64) -> Self {
        let invocations = metering.invocations as f64;
        let waits = invocations * NET_BACKEND_MS
            + metering.answered as f64 * NET_PUSH_MS
            + (metering.reads + metering.writes) as f64 * NET_DYNAMODB_MS;
        Self {
            messages: metering.messages as f64,
            minutes,
            requests: invocations,
            compute: (metering.billed_ms as f64 + waits) / 1e3 * FUNCTION_MEMORY * GB_SECOND_ARM,
            reads: metering.reads as f64,
            // A write to the table also writes the index on `sessionId`.
            writes: metering.writes as f64 * 2.0,
            log: (metering.log + metering.log_lines * ADDED_LOG.len() as u64) as f64,
            out: metering.out as f64,
        }
    }

    /// Usage of the original design, according to issue 8: one `DynamoDB` read, one backend request and one push per
    /// client frame, and one frame per chunk of output. `output` is the size of all chunks. Everything outside the design
    /// is the same as here: the function on arm64, and `log`, the bytes that this design logs for the same work.
    pub(super) fn original(frames: u64, chunks: u64, output: u64, log: f64, minutes: f64) -> Self {
        let (frames, chunks) = (frames as f64, chunks as f64);
        let took = (ORIGINAL_FRAME_MS + NET_BACKEND_MS + NET_PUSH_MS + NET_DYNAMODB_MS).ceil();
        Self {
            messages: 2.0 * frames + chunks,
            minutes,
            requests: frames,
            compute: frames * took / 1e3 * ORIGINAL_MEMORY * GB_SECOND_ARM,
            reads: frames,
            writes: 0.0,
            log,
            out: output as f64 + (frames + chunks) * ORIGINAL_ENVELOPE,
        }
    }

    /// By service: API Gateway, Lambda, `DynamoDB`, logs, load balancer, bytes out.
    pub(super) fn by_service(&self) -> [f64; 6] {
        [
            self.messages * MESSAGE + self.minutes * CONNECTION_MINUTE,
            self.requests * REQUEST + self.compute,
            self.reads * READ_UNIT + self.writes * WRITE_UNIT,
            self.log / 1e9 * LOG_GB,
            self.requests * BALANCED / 1e9 * LCU_HOUR,
            self.out / 1e9 * OUT_GB,
        ]
    }

    /// Total price.
    pub(super) fn dollars(&self) -> f64 {
        self.by_service().iter().sum()
    }

    /// Price without bytes out, which are mostly the shell's output: the part that the design determines, and that the
    /// targets cover.
    pub(super) fn dollars_but_out(&self) -> f64 {
        self.by_service().iter().take(5).sum()
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.minutes += other.minutes;
        self.requests += other.requests;
        self.compute += other.compute;
        self.reads += other.reads;
        self.writes += other.writes;
        self.log += other.log;
        self.out += other.out;
    }
}

/// The formula as text.
pub(super) fn formula() -> String {
    format!(
        "dollars = messages × {:.2}/M + connection minutes × {:.2}/M + requests × {:.2}/M + GB-s × {GB_SECOND_ARM} \
         + reads × {:.3}/M + writes × {:.3}/M + log GB × {LOG_GB:.2} + GB out × {OUT_GB:.2} + GB through the load balancer \
         × {LCU_HOUR}\n({PRICES_OF}; waits on AWS beyond those measured \
         here: backend {NET_BACKEND_MS} ms, DynamoDB {NET_DYNAMODB_MS} ms, push {NET_PUSH_MS} ms)",
        MESSAGE * 1e6,
        CONNECTION_MINUTE * 1e6,
        REQUEST * 1e6,
        READ_UNIT * 1e6,
        WRITE_UNIT * 1e6,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < b * 1e-6
    }

    #[test]
    fn an_idle_hour_of_the_original_costs_its_pings_and_its_connection() {
        let idle = Usage::original(120, 0, 0, 6_000.0, 60.0);
        let [gateway, lambda, dynamodb, log, balancer, out] = idle.by_service();
        assert!(near(gateway, 240e-6 + 60.0 * 0.25e-6));
        assert!(near(lambda, 120.0 * (0.2e-6 + 0.016 * 0.25 * 0.000_013_333_4)));
        assert!(near(dynamodb, 120.0 * 0.125e-6));
        assert!(near(log, 6_000.0 * 0.5e-9));
        assert!(near(balancer, 120.0 * 2_000.0 * 0.008e-9));
        assert!(near(out, 120.0 * 27.0 * 0.09e-9));
    }

    #[test]
    fn a_gigabyte_of_output_is_billed_once() {
        let metering = Metering { out: 1_000_000_000, ..Metering::default() };
        let measured = Usage::measured(&metering, 0.0);
        assert!(near(measured.dollars(), 0.09));
        assert!(measured.dollars_but_out().abs() < 1e-12);
        assert!(near(Usage::original(0, 1, 1_000_000_000, 0.0, 0.0).by_service()[5], 0.09));
    }

    #[test]
    fn a_put_writes_the_index_too() {
        let metering = Metering { writes: 1, ..Metering::default() };
        assert!(near(Usage::measured(&metering, 0.0).by_service()[2], 1.25e-6));
    }
}
