//! Durations as people type them.

use std::time::Duration;

use jiff::SignedDuration;
use thiserror::Error;

/// Shortest time a case may be given: 8 slices of it must still hold many operations.
pub(crate) const SHORTEST: Duration = Duration::from_millis(80);
/// Shortest time between two reports of something that runs.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// Longest time a case may be given.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A duration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum DurationError {
    /// It cannot be read.
    #[error("not a duration: give a number and a unit, such as 500ms, 2s or 1m30s")]
    Unreadable,
    /// It is zero, negative or too short to be cut into slices.
    #[error("too short: a case needs at least {}ms", SHORTEST.as_millis())]
    TooShort,
    /// Nobody can read so fast.
    #[error("too short: at least {}ms between two reports", SHORTEST_INTERVAL.as_millis())]
    IntervalTooShort,
    /// It is longer than anyone waits.
    #[error("too long: at most {}h", LONGEST.as_secs() / 3600)]
    TooLong,
}

/// Reads `500ms`, `2s`, `1m30s`.
///
/// # Errors
/// When it is no duration, or not within [`SHORTEST`]..=[`LONGEST`].
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    check(read(text)?.ok_or(DurationError::TooShort)?)
}

/// Reads the time between two reports, written like those that [`parse`] reads.
///
/// # Errors
/// When it is no duration, or not within 10 ms and [`LONGEST`].
pub(crate) fn parse_interval(text: &str) -> Result<Duration, DurationError> {
    match read(text)? {
        Some(d) if d > LONGEST => Err(DurationError::TooLong),
        Some(d) if d >= SHORTEST_INTERVAL => Ok(d),
        _ => Err(DurationError::IntervalTooShort),
    }
}

/// A duration; none: it is negative.
fn read(text: &str) -> Result<Option<Duration>, DurationError> {
    let signed: SignedDuration = text.trim().parse().map_err(|_| DurationError::Unreadable)?;
    Ok(Duration::try_from(signed).ok())
}

/// Whether a case can have this much time.
///
/// # Errors
/// When it is not within [`SHORTEST`]..=[`LONGEST`].
pub(crate) fn check(duration: Duration) -> Result<Duration, DurationError> {
    match duration {
        d if d < SHORTEST => Err(DurationError::TooShort),
        d if d > LONGEST => Err(DurationError::TooLong),
        d => Ok(d),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_type() {
        assert_eq!(parse("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse(" 1m 30s "), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
    }

    #[test]
    fn reports_may_come_faster_than_cases_end() {
        assert_eq!(parse_interval("20ms"), Ok(Duration::from_millis(20)));
        for text in ["0s", "-1s", "9ms"] {
            assert_eq!(parse_interval(text), Err(DurationError::IntervalTooShort), "{text:?}");
        }
        assert_eq!(parse_interval("25h"), Err(DurationError::TooLong));
        assert_eq!(parse_interval("soon"), Err(DurationError::Unreadable));
    }

    #[test]
    fn refuses_nonsense() {
        for text in ["", "2", "fast", "s", "2 parsecs", "99999999999999999999s"] {
            assert_eq!(parse(text), Err(DurationError::Unreadable), "{text:?}");
        }
        for text in ["0s", "0ms", "-2s", "1ns", "79ms"] {
            assert_eq!(parse(text), Err(DurationError::TooShort), "{text:?}");
        }
        for text in ["25h", "9000000000s"] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text:?}");
        }
    }
}
