//! Wall-clock time in the forms that events, `@connections` and log streams use.

use std::time::SystemTime;

use shellbridge_protocol::times::UnixMs;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// `29/Nov/2023:08:04:01 +0000`, the `requestTime` of events.
const REQUEST_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
/// `2025-02-03T01:46:33.523Z`, the times of `GetConnection`.
const ISO_8601: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
/// `2026/11/29`, the first part of a log stream's name.
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]/[month]/[day]");

/// The time of day.
pub fn unix_ms() -> UnixMs {
    SystemTime::now().into()
}

/// The `requestTime` of events.
pub fn request_time(at: UnixMs) -> String {
    format(at, REQUEST_TIME)
}

/// The times of `GetConnection`.
pub fn iso_8601(at: UnixMs) -> String {
    format(at, ISO_8601)
}

/// The date in the names of log streams.
pub fn date(at: UnixMs) -> String {
    format(at, DATE)
}

fn format(at: UnixMs, form: &[BorrowedFormatItem<'_>]) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&form).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::UnixMs;

    #[test]
    fn times_read_as_in_the_captures() {
        assert_eq!(super::request_time(UnixMs(1_701_245_041_798)), "29/Nov/2023:08:04:01 +0000");
        assert_eq!(super::iso_8601(UnixMs(1_738_547_193_523)), "2025-02-03T01:46:33.523Z");
        assert_eq!(super::date(UnixMs(1_701_245_041_798)), "2023/11/29");
    }
}
