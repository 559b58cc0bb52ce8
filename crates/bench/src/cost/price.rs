//! What AWS charges, for what, and what two designs use of it. us-east-1, on demand, first tier, without the free tier.

/// Date at which the prices here and in `month.rs` were looked up: in stored copies of AWS's pages and, where those leave the
/// figure to a script, in what others wrote of them in 2026. Not checked against a bill.
pub(super) const PRICES_OF: &str = "us-east-1, on demand, first tier, as of November 2026";

/// API Gateway, WebSocket: a message of up to 32 KiB, either way. <https://aws.amazon.com/api-gateway/pricing/>
const MESSAGE: f64 = 1.00 / 1e6;
/// API Gateway, WebSocket: a minute of one connection. Same page.
const CONNECTION_MINUTE: f64 = 0.25 / 1e6;
/// Lambda: a request. <https://aws.amazon.com/lambda/pricing/>
const REQUEST: f64 = 0.20 / 1e6;
/// Lambda on arm64, which `template.yaml` asks for: a GB-second, billed in steps of 1 ms. Same page.
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
const OUR_MEMORY: f64 = 256.0 / 1024.0;
/// The least that Lambda has for the 140 MB that the original takes (issue 8) and that is a usual size.
const ORIGINAL_MEMORY: f64 = 256.0 / 1024.0;
/// A warm frame of the original, milliseconds (issue 8, measured on a machine of this class).
const ORIGINAL_FRAME_MS: f64 = 2.4;

/// Milliseconds that an invocation waits on AWS and not here, where all is one machine. Guesses on the low side, the
/// same for both designs: a request to a backend in the region over a connection kept open, ...
const NET_BACKEND_MS: f64 = 2.0;
/// ... a read of `DynamoDB`, "single-digit milliseconds" in AWS's words, ...
const NET_DYNAMODB_MS: f64 = 3.0;
/// ... and `PostToConnection`.
const NET_PUSH_MS: f64 = 8.0;
/// Of these, what is between a key and its echo once its connection's record is known.
pub(super) const FRAME_WAITS_MS: f64 = NET_BACKEND_MS + NET_PUSH_MS;

/// What Lambda adds to each of the function's lines in `CloudWatch` where `LogFormat` is `JSON`, as in `template.yaml`: a
/// level and a time, in lines that lack them. Whether it is paid for is not said; it counts.
/// (<https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html>)
const ADDED_LOG: &str = r#","level":"INFO","timestamp":"2026-11-20T12:00:00.000Z""#;

/// Bytes of a frame's call of the backend, request and answer with their heads and TLS, through the load balancer: a guess
/// on the high side, the same for both designs. Output passes it by, from the backend to `@connections`.
const BALANCED: f64 = 2_000.0;
/// Bytes around a chunk of output or an answer in the original: `{"type":"output","data":""}`, the least that a frame can
/// have; what JSON must escape counts as it is.
const ORIGINAL_ENVELOPE: f64 = 27.0;

/// What an activity used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Messages in units of 32 KiB, both ways.
    pub(super) messages: f64,
    /// Minutes of connections.
    pub(super) minutes: f64,
    /// Invocations.
    pub(super) requests: f64,
    /// GB-seconds times their price.
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

/// What was counted of our own design.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// `meteredIn` and `meteredOut`.
    pub(super) messages: u64,
    /// Invocations of all routes.
    pub(super) invocations: u64,
    /// Of those, the ones that posted an answer.
    pub(super) answered: u64,
    /// `billedMs`.
    pub(super) billed_ms: u64,
    /// `GetItem`
    pub(super) reads: u64,
    /// `PutItem` and `DeleteItem`
    pub(super) writes: u64,
    /// Bytes that the function wrote to its log, ...
    pub(super) log: u64,
    /// ... in so many lines.
    pub(super) log_lines: u64,
    /// Bytes of the frames that the client received.
    pub(super) out: u64,
}

impl Counted {
    /// So many times as much.
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

#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
impl Usage {
    /// Of our design, as counted.
    pub(super) fn ours(counted: &Counted, minutes: f64) -> Self {
        let invocations = counted.invocations as f64;
        let waits = invocations * NET_BACKEND_MS
            + counted.answered as f64 * NET_PUSH_MS
            + (counted.reads + counted.writes) as f64 * NET_DYNAMODB_MS;
        Self {
            messages: counted.messages as f64,
            minutes,
            requests: invocations,
            compute: (counted.billed_ms as f64 + waits) / 1e3 * OUR_MEMORY * GB_SECOND_ARM,
            reads: counted.reads as f64,
            // The index on `sessionId` is written with the table.
            writes: counted.writes as f64 * 2.0,
            log: (counted.log + counted.log_lines * ADDED_LOG.len() as u64) as f64,
            out: counted.out as f64,
        }
    }

    /// Of the original design, in the words of issue 8: for each frame of the client one `DynamoDB` read, one backend
    /// call and one push; a frame for each chunk of output. `output` are the bytes of all chunks. What does not belong to
    /// the design is as here: the function on arm64, and `log`, the bytes that ours writes for the same work.
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

    /// All of it.
    pub(super) fn dollars(&self) -> f64 {
        self.by_service().iter().sum()
    }

    /// All but the bytes out, of which most are the shell's own: what a design decides, and what targets are for.
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

/// The formula, for people.
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
    #![allow(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]

    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < b * 1e-6
    }

    #[test]
    fn an_idle_hour_of_the_original_is_its_pings_and_its_connection() {
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
    fn a_gigabyte_of_output_is_paid_for_once_on_its_way_out() {
        let counted = Counted { out: 1_000_000_000, ..Counted::default() };
        let ours = Usage::ours(&counted, 0.0);
        assert!(near(ours.dollars(), 0.09));
        assert!(ours.dollars_but_out().abs() < 1e-12);
        assert!(near(Usage::original(0, 1, 1_000_000_000, 0.0, 0.0).by_service()[5], 0.09));
    }

    #[test]
    fn a_put_writes_the_index_too() {
        let counted = Counted { writes: 1, ..Counted::default() };
        assert!(near(Usage::ours(&counted, 0.0).by_service()[2], 1.25e-6));
    }
}
