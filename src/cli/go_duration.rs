//! Durations as etcd's tools read and print them: `1m30s`, `500ms`, `1.234567ms`.
//!
//! Left out: negative durations, which no flag takes.

use std::time::Duration;

/// Units by name, in nanoseconds; a name comes before any other that it starts with.
const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("m", 6e10), ("s", 1e9), ("h", 3.6e12)];

/// Reads one or more decimal numbers, each with its unit; `0` needs none.
///
/// # Errors
/// A sentence with an example.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is no duration; examples: 5s, 500ms, 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
        let number: f64 = rest[..end].parse().map_err(|_| refuse())?;
        rest = &rest[end..];
        let (name, unit) = UNITS.iter().find(|(name, _)| rest.starts_with(name)).ok_or_else(refuse)?;
        nanos += number * unit;
        rest = &rest[name.len()..];
    }
    match nanos {
        _ if text.is_empty() => Err(refuse()),
        // An hour's worth of centuries: more is a slip of the finger, and would overflow a deadline.
        n if n > 1e17 => Err(format!("{text:?} is too long; examples: 5s, 500ms, 1m30s")),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range above")]
        n => Ok(Duration::from_nanos(n.round() as u64)),
    }
}

/// Prints with the largest unit that leaves a number of at least one, and no trailing zeros.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let scaled = |nanos: u128, unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", nanos % unit);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}{name}", nanos / unit)
    };
    const SECOND: u128 = 1_000_000_000;
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => scaled(nanos, 1_000, "µs"),
        1_000_000..SECOND => scaled(nanos, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
            let seconds = scaled(nanos % (60 * SECOND), SECOND, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, _) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for (text, nanos) in [
            ("0s", 0),
            ("999ns", 999),
            ("1.5µs", 1_500),
            ("1.234567ms", 1_234_567),
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("2h0m0.25s", 7_200_250_000_000),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)));
        }
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("1.5h"), Ok(Duration::from_secs(5400)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for bad in ["", "5", "s", "-1s", "1x", "1s2", "1..2s", "9999999999h"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
