//! Ctrl-C while a job is followed: leave it, or cancel it?

use crate::failure::Failure;
use crate::output::Output;
use crate::output::words::Level;
use std::io::{self, BufRead, IsTerminal};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What becomes of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Leave,
    Cancel,
}

/// Ctrl-C, from now on.
pub(crate) struct Interrupts {
    interrupt: Signal,
}

impl Interrupts {
    pub(crate) fn open() -> Result<Self, Failure> {
        let interrupt = signal(SignalKind::interrupt())
            .map_err(|e| Failure::system("Ctrl-C cannot be listened for", &e))?;
        Ok(Self { interrupt })
    }

    pub(crate) async fn next(&mut self) {
        self.interrupt.recv().await;
    }

    /// Asks, where somebody can answer; else the job is left. A second Ctrl-C leaves it too.
    pub(crate) async fn ask(&mut self, output: &mut dyn Output) -> Result<Choice, Failure> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(Choice::Leave);
        }
        output.pause()?;
        loop {
            output.say(Level::Warning, "interrupted: leave the job running, or cancel it? [l/c]")?;
            let answer = tokio::select! {
                answer = tokio::task::spawn_blocking(read_line) => answer.unwrap_or_default(),
                () = self.next() => String::new(),
            };
            if let Some(choice) = choice(&answer) {
                return Ok(choice);
            }
        }
    }
}

/// None: not understood. Nothing at all, as at the end of the input, leaves the job.
fn choice(answer: &str) -> Option<Choice> {
    match answer.trim().to_lowercase().as_str() {
        "" | "l" | "leave" => Some(Choice::Leave),
        "c" | "cancel" => Some(Choice::Cancel),
        _ => None,
    }
}

fn read_line() -> String {
    let mut line = String::new();
    // What cannot be read is no answer.
    let _ = io::stdin().lock().read_line(&mut line);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_cancels() {
        assert_eq!(choice("c\n"), Some(Choice::Cancel));
        assert_eq!(choice(""), Some(Choice::Leave));
        assert_eq!(choice("L"), Some(Choice::Leave));
        assert_eq!(choice("yes"), None);
    }
}
