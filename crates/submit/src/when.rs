//! When something is to happen: a delay, a moment, the next firing of a pattern.
//!
//! Owns time zones. What is read here is a function of its arguments; only `now` looks at the clock and at this
//! machine's zone.

use crate::units::parse_duration;
use grange_protocol::cron::{Fields, Pattern};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

/// How far ahead a job may be submitted, days.
const LONGEST_DELAY_DAYS: i64 = 3_660;
/// How far ahead the next firing of a pattern is looked for, days: 29 February comes every eight years at worst.
const LOOKED_AHEAD_DAYS: i32 = 9 * 366;

/// This moment, in this machine's zone.
pub(crate) fn now() -> Zoned {
    Zoned::now()
}

/// Reads `--delay`: Unix milliseconds.
pub(crate) fn after(text: &str, now: &Zoned) -> Result<u64, String> {
    let delay = parse_duration(text)?;
    let delay = SignedDuration::try_from(delay).map_err(|_| too_far(text))?;
    let at = now.timestamp().checked_add(delay).map_err(|_| too_far(text))?;
    check(text, at, now)
}

/// Reads `--at`: `2026-12-01T08:00Z`, with any offset; without one it is this machine's time; `08:00` is the next time
/// that the clock shows it. Unix milliseconds.
pub(crate) fn at(text: &str, now: &Zoned) -> Result<u64, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return check(text, at, now);
    }
    let zone = now.time_zone();
    let bad =
        || format!("`{text}` is no time; use a form like `2026-12-01T08:00Z`, `2026-12-01T08:00` or `08:00`");
    let in_zone = |at: DateTime| at.to_zoned(zone.clone()).map(|at| at.timestamp()).map_err(|_| bad());
    // A date alone would be read as its midnight, which nobody means.
    if text.contains(['T', ' ', 't']) {
        let at: DateTime = text.parse().map_err(|_| bad())?;
        return check(text, in_zone(at)?, now);
    }
    let time: Time = if text.contains(':') { text.parse().map_err(|_| bad())? } else { return Err(bad()) };
    let today = in_zone(now.date().to_datetime(time))?;
    if today > now.timestamp() {
        return check(text, today, now);
    }
    let tomorrow = now.date().tomorrow().map_err(|_| bad())?;
    check(text, in_zone(tomorrow.to_datetime(time))?, now)
}

fn check(text: &str, at: Timestamp, now: &Zoned) -> Result<u64, String> {
    if at < now.timestamp() {
        return Err(format!("`{text}` is past; leave it out to submit now"));
    }
    if at.duration_since(now.timestamp()) > SignedDuration::from_hours(24 * LONGEST_DELAY_DAYS) {
        return Err(too_far(text));
    }
    u64::try_from(at.as_millisecond()).map_err(|_| too_far(text))
}

fn too_far(text: &str) -> String {
    format!("`{text}` is too far ahead; at most {LONGEST_DELAY_DAYS} days")
}

/// A zone by its name, e.g. `Europe/Berlin`; None: UTC.
pub(crate) fn zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        None => Ok(TimeZone::UTC),
        Some(name) => TimeZone::get(name).map_err(|_| {
            format!("`{name}` is no time zone that this machine knows; use a name like `Europe/Berlin`")
        }),
    }
}

/// Unix milliseconds of the next firing after a moment. None: it never comes. `every` counts from when it fired last, or
/// from when it was laid down.
pub(crate) fn next(pattern: &Pattern, zone: &TimeZone, now_ms: u64, since_ms: u64) -> Option<u64> {
    match pattern {
        Pattern::Every { seconds } => Some(since_ms.saturating_add(seconds * 1000).max(now_ms)),
        Pattern::At(fields) => {
            let now = Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?;
            let found = next_of(fields, &now.to_zoned(zone.clone()))?;
            u64::try_from(found.timestamp().as_millisecond()).ok()
        }
    }
}

fn next_of(fields: &Fields, now: &Zoned) -> Option<Zoned> {
    let mut day = now.date();
    for _ in 0..LOOKED_AHEAD_DAYS {
        if is_on(fields, day)
            && let Some(found) = next_on(fields, day, now)
        {
            return Some(found);
        }
        day = day.checked_add(Span::new().days(1)).ok()?;
    }
    None
}

fn is_on(fields: &Fields, day: Date) -> bool {
    let number = |n: i8| u32::from(n.unsigned_abs());
    fields.is_on(number(day.month()), number(day.day()), number(day.weekday().to_sunday_zero_offset()))
}

fn next_on(fields: &Fields, day: Date, now: &Zoned) -> Option<Zoned> {
    for (hour, minute, second) in fields.times() {
        let at = day.at(hour, minute, second, 0).to_zoned(now.time_zone().clone()).ok()?;
        if at > *now {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str, zone: &str) -> Zoned {
        text.parse::<Timestamp>().unwrap().to_zoned(TimeZone::get(zone).unwrap())
    }

    fn shown(ms: u64) -> String {
        Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string()
    }

    #[test]
    fn moments_are_read() {
        let now = moment("2026-11-22T22:00:00Z", "Europe/Berlin");
        let read = |text: &str| at(text, &now).map(shown);
        assert_eq!(read("2026-12-01T08:00Z"), Ok("2026-12-01T08:00:00Z".into()));
        assert_eq!(read("2026-12-01T08:00:30.5+01:00"), Ok("2026-12-01T07:00:30.5Z".into()));
        assert_eq!(read("2026-12-01T08:00"), Ok("2026-12-01T07:00:00Z".into()));
        assert_eq!(read("23:30"), Ok("2026-11-22T22:30:00Z".into()));
        assert_eq!(read("08:00"), Ok("2026-11-23T07:00:00Z".into()));
        assert!(read("2020-01-01T00:00Z").unwrap_err().contains("is past"));
        assert!(read("2099-01-01T00:00Z").unwrap_err().contains("too far ahead"));
        for bad in ["", "8", "soon", "25:00", "2026-12-01", "2026-13-01T00:00Z"] {
            assert!(read(bad).unwrap_err().contains("is no time"), "{bad}");
        }
        assert_eq!(after("90s", &now).map(shown), Ok("2026-11-22T22:01:30Z".into()));
        assert!(after("9999d", &now).unwrap_err().contains("too far ahead"));
    }

    #[test]
    fn the_next_firing_is_found_in_its_zone() {
        let next = |pattern: &str, zone: &str, now: &str| {
            let pattern = Pattern::read(pattern).unwrap();
            let zone = super::zone(Some(zone)).unwrap();
            let now = u64::try_from(now.parse::<Timestamp>().unwrap().as_millisecond()).unwrap();
            super::next(&pattern, &zone, now, now).map(shown)
        };
        let berlin = "Europe/Berlin";
        assert_eq!(next("0 6 * * *", berlin, "2026-11-22T22:00:00Z"), Some("2026-11-23T05:00:00Z".into()));
        assert_eq!(next("0 6 * * *", berlin, "2026-07-01T04:00:00Z"), Some("2026-07-02T04:00:00Z".into()));
        assert_eq!(
            next("30 0 8 * * mon", "UTC", "2026-11-22T22:00:00Z"),
            Some("2026-11-23T08:00:30Z".into())
        );
        assert_eq!(next("0 0 29 2 *", "UTC", "2026-11-22T22:00:00Z"), Some("2028-02-29T00:00:00Z".into()));
        assert_eq!(next("0 0 31 2 *", "UTC", "2026-11-22T22:00:00Z"), None);
        assert_eq!(next("@every 30m", "UTC", "2026-11-22T22:00:00Z"), Some("2026-11-22T22:30:00Z".into()));
        // 02:30 is left out on this day: the clock goes from 2 to 3.
        assert_eq!(next("30 2 * * *", berlin, "2026-03-28T12:00:00Z"), Some("2026-03-29T01:30:00Z".into()));
        assert!(super::zone(Some("Mars/Olympus")).unwrap_err().contains("Europe/Berlin"));
    }
}
