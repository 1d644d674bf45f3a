//! Values of arguments that several commands share.

use std::{env, str::FromStr as _, time::Duration};

use authpi_sdk::event::EventType;
use jiff::{SignedDuration, Timestamp};

use crate::failure::Failure;

/// A time: RFC 3339, or how long ago, such as `90s`, `15m`, `2h` or `1d`.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = Timestamp::from_str(text) {
        return Ok(at);
    }
    let ago = duration(text)
        .map_err(|_| "is neither a time such as 2026-11-25T08:00:00Z nor an age such as 2h")?;
    SignedDuration::try_from(ago)
        .ok()
        .and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .ok_or_else(|| "is too long ago".to_owned())
}

/// A duration such as `100ms`, `5s`, `2m`, `1h` or `1d`; not negative.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    // Days always have 24 hours here.
    let span = match text.strip_suffix('d') {
        Some(days) => days
            .parse::<u32>()
            .map(|days| SignedDuration::from_hours(i64::from(days) * 24))
            .ok(),
        None => SignedDuration::from_str(text).ok(),
    };
    span.filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))
        .and_then(|span| Duration::try_from(span).ok())
        .ok_or_else(|| format!("`{text}` is not a duration such as 100ms, 5s, 2m or 1h"))
}

/// Durations with commas between them; none if empty.
pub(crate) fn durations(text: &str) -> Result<Durations, String> {
    if text.trim().is_empty() {
        return Ok(Durations(Vec::new()));
    }
    let each = text.split(',').map(duration);
    each.collect::<Result<_, _>>().map(Durations)
}

/// A separate type, since clap takes a `Vec` for a repeated argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Durations(pub(crate) Vec<Duration>);

/// An environment variable; an empty one counts as not set.
pub(crate) fn variable(name: &str) -> crate::failure::Result<Option<String>> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::usage(format!(
            "the environment variable {name} is not Unicode"
        ))),
    }
}

/// An event type, known or not.
#[expect(clippy::unnecessary_wraps, reason = "as clap wants it")]
pub(crate) fn event_type(text: &str) -> Result<EventType, String> {
    Ok(EventType::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        let millis = |text| {
            durations(text).map(|read| read.0.iter().map(Duration::as_millis).collect::<Vec<_>>())
        };
        assert_eq!(
            millis("100ms,5s, 2m ,1h,1d").unwrap(),
            [100, 5_000, 120_000, 3_600_000, 86_400_000]
        );
        assert_eq!(millis("").unwrap(), [0; 0]);
        for wrong in [
            "5",
            "s",
            "5x",
            "-1s",
            "1s,,2s",
            "99999999999999999999h",
            "PT1S",
            "d",
        ] {
            assert!(millis(wrong).is_err(), "{wrong} was read");
        }
    }

    #[test]
    fn a_time_is_absolute_or_an_age() {
        assert_eq!(
            time("2026-11-25T08:00:00Z").unwrap(),
            "2026-11-25T08:00:00Z".parse().unwrap()
        );
        let before = Timestamp::now();
        let hour_ago = time("1h").unwrap();
        assert!(before.duration_since(hour_ago) <= SignedDuration::from_hours(1));
        for wrong in ["yesterday", "", "-1h", "4000000000d"] {
            assert!(time(wrong).is_err(), "{wrong} was read");
        }
    }
}
