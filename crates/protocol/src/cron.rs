//! Patterns of recurring jobs: five fields as everybody writes them, six with seconds in front, or `@every 30m`.
//!
//! Owns reading them and writing them as the server reads them. Never knows a time zone or what time it is.

use std::fmt;

/// Shortest time between two firings, seconds.
pub const SHORTEST_EVERY_S: u64 = 1;
/// Longest time between two firings of `@every`, seconds.
pub const LONGEST_EVERY_S: u64 = 366 * 86_400;

/// When a recurring job is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Again after so long.
    Every {
        /// How long.
        seconds: u64,
    },
    /// When the clock shows this.
    At(Fields),
}

/// Second, minute, hour, day of the month, month, day of the week; a bit for each number that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    sets: [u64; 6],
    /// The field is `*`: it says nothing.
    any: [bool; 6],
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five or six fields.
    #[error(
        "`{0}` has {1} fields; use five (minute hour day month weekday), six (second first), or `@every 30m`"
    )]
    Count(String, usize),
    /// A field that cannot be read.
    #[error("{field} `{given}` is not from {least} to {most}; use a number, `*`, `1-5`, `*/15` or a list")]
    Field {
        /// Which.
        field: &'static str,
        /// What stands there.
        given: String,
        /// The smallest number.
        least: u32,
        /// The largest number.
        most: u32,
    },
    /// Not a time between firings.
    #[error("`{0}` is no time from 1s to 366d; use a form like `@every 30m` or `@every 1h30m`")]
    Every(String),
    /// A word that is none of ours.
    #[error("`{0}` is not known; use @hourly, @daily, @weekly, @monthly, @yearly or `@every 30m`")]
    Word(String),
}

struct Kind {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const KINDS: [Kind; 6] = [
    Kind { name: "second", least: 0, most: 59, words: &[] },
    Kind { name: "minute", least: 0, most: 59, words: &[] },
    Kind { name: "hour", least: 0, most: 23, words: &[] },
    Kind { name: "day of the month", least: 1, most: 31, words: &[] },
    Kind { name: "month", least: 1, most: 12, words: &MONTHS },
    // 7 is Sunday too.
    Kind { name: "day of the week", least: 0, most: 7, words: &DAYS },
];
const WORDS: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl Pattern {
    /// Reads a pattern.
    pub fn read(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let seconds =
                read_every(every.trim()).ok_or_else(|| CronError::Every(every.trim().to_owned()))?;
            return Ok(Self::Every { seconds });
        }
        if text.starts_with('@') {
            let fields = WORDS.iter().find(|(word, _)| *word == text).map(|(_, fields)| *fields);
            return Self::read(fields.ok_or_else(|| CronError::Word(text.to_owned()))?);
        }
        let given: Vec<&str> = text.split_whitespace().collect();
        let all = match given.len() {
            5 => [&["0"], &given[..]].concat(),
            6 => given,
            count => return Err(CronError::Count(text.to_owned(), count)),
        };
        let mut fields = Fields { sets: [0; 6], any: [false; 6] };
        for (n, (kind, text)) in KINDS.iter().zip(all).enumerate() {
            fields.any[n] = matches!(text, "*" | "?");
            fields.sets[n] = read_field(kind, text).ok_or_else(|| CronError::Field {
                field: kind.name,
                given: text.to_owned(),
                least: kind.least,
                most: kind.most,
            })?;
        }
        // Sunday has one number where it is compared and written.
        fields.sets[5] = (fields.sets[5] | fields.sets[5] >> 7 & 1) & 0x7f;
        Ok(Self::At(fields))
    }
}

/// As the server reads it.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every { seconds } => write!(f, "@every {seconds}s"),
            Self::At(fields) => {
                let all: Vec<String> = (0..6).map(|n| fields.written(n)).collect();
                f.write_str(&all.join(" "))
            }
        }
    }
}

impl Fields {
    /// Whether it fires on such a day: where both days are given, either will do.
    pub fn is_on(&self, month: u32, day: u32, weekday: u32) -> bool {
        let (by_day, by_weekday) = (self.has(3, day), self.has(5, weekday));
        let fits = if self.any[3] || self.any[5] { by_day && by_weekday } else { by_day || by_weekday };
        self.has(4, month) && fits
    }

    /// The times of a day at which it fires, in order: hour, minute, second.
    pub fn times(&self) -> impl Iterator<Item = (i8, i8, i8)> + '_ {
        let numbers = move |n: usize| (0..60i8).filter(move |at| self.has(n, u32::from(at.unsigned_abs())));
        numbers(2).flat_map(move |hour| {
            numbers(1).flat_map(move |minute| numbers(0).map(move |second| (hour, minute, second)))
        })
    }

    fn has(&self, field: usize, number: u32) -> bool {
        self.sets[field] >> number & 1 == 1
    }

    fn written(&self, field: usize) -> String {
        if self.any[field] {
            return "*".to_owned();
        }
        let numbers = (0..60).filter(|number| self.has(field, *number));
        numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(",")
    }
}

/// Reads a list of numbers, ranges and steps.
fn read_field(kind: &Kind, text: &str) -> Option<u64> {
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0)?),
            None => (part, 1),
        };
        let stepped = part.contains('/');
        let (from, to) = match range {
            "*" | "?" => (kind.least, if kind.most == 7 { 6 } else { kind.most }),
            range => match range.split_once('-') {
                Some((from, to)) => (number(kind, from)?, number(kind, to)?),
                // `5/15` goes on to the end.
                None if stepped => (number(kind, range)?, kind.most),
                None => (number(kind, range)?, number(kind, range)?),
            },
        };
        if from > to {
            return None;
        }
        for number in (from..=to).step_by(usize::try_from(step).ok()?) {
            set |= 1 << number;
        }
    }
    Some(set)
}

fn number(kind: &Kind, text: &str) -> Option<u32> {
    let word = kind.words.iter().position(|word| word.eq_ignore_ascii_case(text));
    let number = match word {
        Some(at) => u32::try_from(at).ok()? + kind.least,
        None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok()?,
        None => return None,
    };
    (kind.least..=kind.most).contains(&number).then_some(number)
}

/// Reads `30m`, `1h30m`, `90s`, `2d`.
fn read_every(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (amount, unit) = (rest[..end].parse::<u64>().ok()?, rest[end..].chars().next()?);
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        seconds = seconds.checked_add(amount.checked_mul(factor)?)?;
        rest = &rest[end + 1..];
    }
    (SHORTEST_EVERY_S..=LONGEST_EVERY_S).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_are_written_as_the_server_reads_them() {
        for (given, written) in [
            ("0 6 * * *", "0 0 6 * * *"),
            ("*/15 * * * *", "0 0,15,30,45 * * * *"),
            ("30 0 8-10 1,15 jan-mar MON-FRI", "30 0 8,9,10 1,15 1,2,3 1,2,3,4,5"),
            ("0 0 * * 7", "0 0 0 * * 0"),
            ("0 0 * * 5-7", "0 0 0 * * 0,5,6"),
            ("50/5 * ? * ?", "0 50,55 * * * *"),
            ("@daily", "0 0 0 * * *"),
            ("@every 1h30m", "@every 5400s"),
            ("@every 90s", "@every 90s"),
        ] {
            let pattern = Pattern::read(given).unwrap();
            assert_eq!(pattern.to_string(), written, "{given}");
            assert_eq!(Pattern::read(written), Ok(pattern), "{given}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        let said = |text: &str| Pattern::read(text).unwrap_err().to_string();
        assert!(said("0 6 * *").contains("has 4 fields"));
        assert!(said("61 6 * * *").contains("minute `61` is not from 0 to 59"));
        assert!(said("0 6 0 * *").contains("day of the month `0` is not from 1 to 31"));
        assert!(said("0 6 * foo *").contains("month `foo`"));
        for bad in ["0 6 * * */0", "0 6 * * 5-1", "0 6 * * ", "0 6,, * * *", "+1 6 * * *"] {
            assert!(Pattern::read(bad).is_err(), "{bad}");
        }
        assert!(said("@often").contains("@hourly"));
        for bad in ["@every 0s", "@every 5", "@every 1.5h", "@every 400d", "@every 99999999999999999999d"] {
            assert!(said(bad).contains("is no time from 1s to 366d"), "{bad}");
        }
    }

    #[test]
    fn either_day_will_do_where_both_are_given() {
        let Pattern::At(both) = Pattern::read("0 0 13 * fri").unwrap() else { unreachable!("fields") };
        assert!(both.is_on(3, 13, 1) && both.is_on(3, 1, 5) && !both.is_on(3, 1, 1));
        let Pattern::At(one) = Pattern::read("0 0 * * fri").unwrap() else { unreachable!("fields") };
        assert!(one.is_on(3, 1, 5) && !one.is_on(3, 13, 1));
        assert_eq!(both.times().collect::<Vec<_>>(), [(0, 0, 0)]);
    }

    proptest! {
        /// Any text is read or refused, and what was read is read the same from what is written.
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9*/,@a-z -]{0,40}") {
            if let Ok(pattern) = Pattern::read(&text) {
                prop_assert_eq!(Pattern::read(&pattern.to_string()), Ok(pattern));
            }
        }
    }
}
