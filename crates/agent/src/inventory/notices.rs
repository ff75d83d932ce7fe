//! What an operator has to know of the host: each once in the log, and in every heartbeat as long as it is so.

/// Most notices that are kept; more are only logged.
const MOST: usize = 64;

/// The notices, oldest first.
#[derive(Debug, Default)]
pub(super) struct Notices {
    said: Vec<(String, String)>,
}

impl Notices {
    /// Says something about `key`, unless just that is said already.
    pub(super) fn say(&mut self, key: &str, text: String) {
        if let Some((_, said)) = self.said.iter_mut().find(|(of, _)| of == key) {
            if *said != text {
                tracing::warn!(notice = text, "inventory");
                *said = text;
            }
            return;
        }
        tracing::warn!(notice = text, "inventory");
        if self.said.len() < MOST {
            self.said.push((key.to_owned(), text));
        }
    }

    /// Whether something is said about `key`.
    pub(super) fn is_said(&self, key: &str) -> bool {
        self.said.iter().any(|(of, _)| of == key)
    }

    /// It is no longer so.
    pub(super) fn take_back(&mut self, key: &str) {
        self.said.retain(|(of, _)| of != key);
    }

    /// All of them.
    pub(super) fn texts(&self) -> Vec<String> {
        self.said.iter().map(|(_, text)| text.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_stands_once_until_it_changes_or_is_taken_back() {
        let mut notices = Notices::default();
        notices.say("a", "one".into());
        notices.say("b", "two".into());
        notices.say("a", "one".into());
        assert_eq!(notices.texts(), ["one", "two"]);
        notices.say("a", "three".into());
        notices.take_back("b");
        assert_eq!(notices.texts(), ["three"]);
    }

    #[test]
    fn notices_are_bounded() {
        let mut notices = Notices::default();
        for key in 0..1_000 {
            notices.say(&key.to_string(), "x".into());
        }
        assert_eq!(notices.texts().len(), MOST);
    }
}
