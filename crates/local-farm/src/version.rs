//! Owns: the version a tool tells by `--version`. Never runs anything.

use std::fmt;

/// A version of three numbers; what follows them (`-beta.1`, `+build`) is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// The first word of `text` that is a version, as in `nats-server: v2.15.1` or `uv 0.13.9 (x86_64)`.
    pub(crate) fn find_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let digits = word.strip_prefix('v').unwrap_or(word);
        let core = digits.split(['-', '+']).next()?;
        let mut numbers = core.split('.').map(|number| number.parse::<u32>().ok());
        let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn what_the_tools_print_is_read() {
        assert_eq!(Version::find_in("nats-server: v2.15.1\n"), Some(Version(2, 15, 1)));
        assert_eq!(Version::find_in("uv 0.13.9 (x86_64-unknown-linux-gnu)"), Some(Version(0, 13, 9)));
        assert_eq!(Version::find_in("nats-server: v2.16.0-preview.1"), Some(Version(2, 16, 0)));
    }

    #[test]
    fn what_is_no_version_is_not_taken_for_one() {
        for text in ["", "usage: tool", "1.2", "1.2.3.4", "a.b.c"] {
            assert_eq!(Version::find_in(text), None, "{text}");
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(Version(2, 9, 30) < Version(2, 15, 1));
        assert!(Version(2, 15, 1) <= Version(2, 15, 1));
    }
}
