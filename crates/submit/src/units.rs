//! Durations, sizes and times, read from people and shown to them.

use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;

const DURATION_UNITS: [(&str, f64); 5] =
    [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Reads `30s`, `5m`, `1h30m`, `1.5h`, `500ms`; a number alone is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; use a form like `30s`, `5m` or `1h30m`");
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| bad());
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, unit, after) = split_number(rest).ok_or_else(bad)?;
        let (_, factor) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        seconds += number * factor;
        rest = after;
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// A number, the word behind it, and what follows.
fn split_number(text: &str) -> Option<(f64, &str, &str)> {
    let number_end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    Some((number.parse().ok()?, unit, rest))
}

/// Reads `512MiB`, `2GB`, `1.5GiB`; a number alone is bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size; use a form like `512MiB` or `2GB`");
    let (number, unit, rest) = split_number(text.trim()).ok_or_else(bad)?;
    let unit = unit.trim();
    let factor = match SIZE_UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, factor)) => factor,
        None if unit.is_empty() => 1,
        None => return Err(bad()),
    };
    let bytes = number * factor as f64;
    if !rest.is_empty() || !(0.0..1e18).contains(&bytes) {
        return Err(bad());
    }
    Ok(bytes.round() as u64)
}

/// Reads an amount of memory in MiB: `8192`, `8g`, `8GiB`, `512m`; what is no whole MiB is rounded up.
pub(crate) fn parse_mib(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not an amount of memory; use MiB, or a form like `8GiB` or `8g`");
    let (_, unit, rest) = split_number(text.trim()).ok_or_else(bad)?;
    let unit = unit.trim();
    if unit.is_empty() && rest.is_empty() {
        return text.trim().parse().map_err(|_| bad());
    }
    // A single letter is what people type: `8g` is 8 GiB.
    let bytes = match unit {
        "B" | "b" => return Err(bad()),
        letter if letter.len() == 1 => parse_size(&format!("{}iB", text.trim())),
        _ => parse_size(text),
    };
    bytes.map(|bytes| bytes.div_ceil(1 << 20)).map_err(|_| bad())
}

/// Shows a number of bytes.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Shows an amount of memory that is given in MiB.
pub(crate) fn mib(amount: u64) -> String {
    size(amount.saturating_mul(1 << 20))
}

/// Shows a duration in its two largest units or so.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.is_zero() => "0 s".to_owned(),
        0 if duration < Duration::from_millis(10) => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        0 => format!("{} ms", duration.as_millis()),
        1..=59 => format!("{:.1} s", duration.as_secs_f64()),
        60..=3599 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{} h {} m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Shows an amount that is counted in seconds, such as GPU time: a tenth of a second is exact enough, less is not.
pub(crate) fn seconds(amount: f64) -> String {
    if amount > 0.0 && amount < 0.1 { format!("{amount:.3}") } else { format!("{amount:.1}") }
}

/// Shows how much of an amount in MiB is left: `60.1/80.0 GiB`.
pub(crate) fn mib_of(part: u64, whole: u64) -> String {
    let gib = |amount: u64| amount as f64 / 1024.0;
    format!("{:.1}/{:.1} GiB", gib(part), gib(whole))
}

/// Shows milliseconds as a duration.
pub(crate) fn millis(ms: f64) -> String {
    duration(Duration::try_from_secs_f64(ms.max(0.0) / 1000.0).unwrap_or_default())
}

/// Shows how long ago a moment was, in one unit.
pub(crate) fn ago(at_ms: u64, now_ms: u64) -> String {
    if at_ms == 0 {
        return "-".to_owned();
    }
    let seconds = now_ms.saturating_sub(at_ms) / 1000;
    match seconds {
        0..=99 => format!("{seconds} s ago"),
        100..=5_999 => format!("{} min ago", seconds / 60),
        6_000..=172_799 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Shows Unix milliseconds as date and time, UTC.
pub(crate) fn date_time(at_ms: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
    at.ok().and_then(|at| at.format(&format).ok()).unwrap_or_else(|| at_ms.to_string())
}

/// This machine's clock.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("2", 2_000),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "5x", "-3s", "5 m", "1h30", "inf", "NaN", "99999999999999999999999d"] {
            let error = parse_duration(bad).unwrap_err();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("512MiB", 512 << 20), ("2GB", 2_000_000_000), ("7", 7), ("1.5 gib", 1_610_612_736)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GB", "1XB", "-1MB", "1MB2"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_read_in_mebibytes() {
        for (text, mib) in [
            ("8192", 8192),
            ("8g", 8192),
            ("8GiB", 8192),
            ("1.5G", 1536),
            ("512m", 512),
            ("1GB", 954),
            ("1t", 1 << 20),
        ] {
            assert_eq!(parse_mib(text), Ok(mib), "{text}");
        }
        for bad in ["", "g", "-1", "1.5", "8b", "8x", "8 parsec", "1e9", "99999999999999999999"] {
            let error = parse_mib(bad).unwrap_err();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
        assert_eq!((mib(512), mib(8192)), ("512.0 MiB".into(), "8.0 GiB".into()));
        assert_eq!(
            (mib_of(512, 8192), seconds(0.02), seconds(61.26)),
            ("0.5/8.0 GiB".into(), "0.020".into(), "61.3".into())
        );
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            (size(17), size(1536), size(5 << 30)),
            ("17 B".into(), "1.5 KiB".into(), "5.0 GiB".into())
        );
        let shown = |ms| duration(Duration::from_millis(ms));
        assert_eq!([shown(7), shown(3_240), shown(61_000)], ["7.0 ms", "3.2 s", "1 m 1 s"]);
        assert_eq!([shown(3_660_000), shown(90_000_000)], ["1 h 1 m", "1 d 1 h"]);
        assert_eq!([ago(0, 5), ago(1_000, 4_000), ago(1, 600_001)], ["-", "3 s ago", "10 min ago"]);
        assert_eq!(date_time(1_700_000_000_123), "2023-11-14 22:13:20.123Z");
    }
}
