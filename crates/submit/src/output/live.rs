//! What moves on a terminal while a job is followed or a file is sent: one bar. Elsewhere: a plain line now and then.

use super::screen::{Look, clean, cut};
use super::words::Sending;
use crate::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

const STEPS: u64 = 1000;
const TICK: Duration = Duration::from_millis(120);
/// Without a terminal progress is told in steps of so many per cent.
const TOLD_PER_CENT: i64 = 10;
const SPINNER: &str = "{spinner} {msg}";
const BAR: &str = "  {bar:28} {percent:>3} %  {msg}";
/// Width of everything in the line but the message.
const BAR_LINE: usize = 42;
/// A file of this size is worth a line of its own.
const LARGE_BYTES: u64 = 16 << 20;

/// The bar, or the memory of what was told without one.
pub(super) struct Live {
    look: Look,
    bar: Option<ProgressBar>,
    has_fraction: bool,
    told_per_cent: i64,
    told_sending: bool,
}

impl Live {
    pub(super) fn new(look: Look) -> Self {
        Self { look, bar: None, has_fraction: false, told_per_cent: -1, told_sending: false }
    }

    /// Shows a spinner with a text.
    pub(super) fn state(&mut self, text: &str) {
        self.has_fraction = false;
        self.told_per_cent = -1;
        let Some(bar) = self.bar() else { return };
        bar.set_style(style(SPINNER, &[]));
        bar.set_message(text.to_owned());
    }

    /// Shows how far it is; without a terminal the answer is a line to write, now and then.
    pub(super) fn progress(&mut self, fraction: f64, message: &str) -> Option<String> {
        let message = clean(message);
        let known = (0.0..=1.0).contains(&fraction);
        let width = self.look.width.saturating_sub(BAR_LINE);
        let Some(bar) = self.bar() else { return self.tell(fraction, &message) };
        let bar = bar.clone();
        if !known {
            self.state(&message);
            return None;
        }
        if !self.has_fraction {
            self.has_fraction = true;
            bar.set_style(style(BAR, &["━", "╸", "─"]));
            bar.set_length(STEPS);
        }
        bar.set_position((fraction * STEPS as f64).round() as u64);
        bar.set_message(cut(&message, width));
        None
    }

    fn tell(&mut self, fraction: f64, message: &str) -> Option<String> {
        let per_cent = (fraction * 100.0).round() as i64;
        if per_cent < 0 || (per_cent < self.told_per_cent + TOLD_PER_CENT && self.told_per_cent >= 0) {
            return None;
        }
        self.told_per_cent = per_cent;
        Some(format!("  {per_cent:>3} %  {message}").trim_end().to_owned())
    }

    /// Shows a file on its way. The client library does not say how much of it is sent.
    pub(super) fn sending(&mut self, file: &Sending) -> Option<String> {
        let text = format!("sending {} ({})", clean(&file.name), units::size(file.size));
        if self.look.terminal {
            if file.elapsed >= Duration::from_millis(300) {
                self.state(&format!("{text}  {}", units::duration(file.elapsed)));
            }
            return None;
        }
        let first = !self.told_sending && file.size >= LARGE_BYTES;
        self.told_sending |= first;
        first.then_some(text)
    }

    /// Runs `write` with the bar out of the way.
    pub(super) fn around<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.has_fraction = false;
        self.told_per_cent = -1;
        self.told_sending = false;
    }

    fn bar(&mut self) -> Option<&ProgressBar> {
        if !self.look.terminal {
            return None;
        }
        Some(self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
            bar
        }))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str, bar: &[&str]) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("the template is fixed and right");
    if bar.is_empty() {
        style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
    } else {
        style.progress_chars(&bar.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_progress_is_told_in_steps() {
        let mut live = Live::new(Look::PIPE);
        let told: Vec<String> = (0..=100).filter_map(|n| live.progress(f64::from(n) / 100.0, "m")).collect();
        assert_eq!(told.len(), 11);
        assert_eq!((told[0].as_str(), told[10].as_str()), ("    0 %  m", "  100 %  m"));
        assert_eq!(live.progress(-1.0, "nobody knows"), None);
    }

    #[test]
    fn only_large_files_are_mentioned() {
        let mut live = Live::new(Look::PIPE);
        let file = |size| Sending { name: "f".into(), size, elapsed: Duration::ZERO };
        assert_eq!(live.sending(&file(1000)), None);
        assert_eq!(live.sending(&file(64 << 20)), Some("sending f (64.0 MiB)".into()));
        assert_eq!(live.sending(&file(64 << 20)), None);
    }

    #[test]
    fn a_bar_of_any_kind_can_be_made() {
        let mut live = Live::new(Look { terminal: true, ..Look::PIPE });
        live.state("waits");
        assert_eq!(live.progress(0.5, "half"), None);
        assert_eq!(live.progress(-1.0, "who knows"), None);
        live.clear();
    }
}
