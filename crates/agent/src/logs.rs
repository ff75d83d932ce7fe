//! A worker's log pipes: always drained, cut into lines, capped.
//!
//! What arrives here was written past the worker's own capture (by C code, by children, by an executable plugin), so it
//! belongs to the run that is going on, if there is just one.

use std::collections::VecDeque;
use std::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of standard error that a crash report shows.
const TAIL_BYTES: usize = 2 * 1024;
/// Read at one time, bytes.
const READ_BYTES: usize = 64 * 1024;

/// The last lines of a worker's standard error.
#[derive(Debug, Default)]
pub struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    /// Takes a line in.
    pub fn push(&self, line: &str) {
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.extend(line.as_bytes());
        kept.push_back(b'\n');
        let over = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..over);
    }

    /// What is kept.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (a, b) = kept.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).trim_end().to_owned()
    }
}

/// Cuts a byte stream into lines of at most `max` bytes; the rest of a longer line is left out, and said.
#[derive(Debug)]
pub struct LineCutter {
    line: Vec<u8>,
    left_out: usize,
    max: usize,
}

impl LineCutter {
    /// A cutter for lines of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { line: Vec::new(), left_out: 0, max }
    }

    /// Takes bytes in and gives every line that ended.
    pub fn push(&mut self, mut bytes: &[u8], each: &mut dyn FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.keep(&bytes[..end]);
            self.flush(each);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.max - self.line.len().min(self.max);
        let taken = bytes.len().min(room);
        self.line.extend_from_slice(&bytes[..taken]);
        self.left_out += bytes.len() - taken;
    }

    /// Gives what is there as a line.
    pub fn flush(&mut self, each: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r');
        match self.left_out {
            0 => each(text),
            n => each(&format!("{text} [{n} bytes left out]")),
        }
        self.line.clear();
        self.left_out = 0;
    }

    /// Whether a line has begun.
    pub fn is_open(&self) -> bool {
        !self.line.is_empty() || self.left_out > 0
    }
}

/// Drains a pipe to its end and gives every line.
pub async fn drain(mut pipe: impl AsyncRead + Unpin, max_line: usize, mut each: impl FnMut(&str)) {
    let mut cutter = LineCutter::new(max_line);
    let mut bytes = vec![0; READ_BYTES];
    while let Ok(got) = pipe.read(&mut bytes).await {
        if got == 0 {
            break;
        }
        cutter.push(&bytes[..got], &mut each);
    }
    if cutter.is_open() {
        cutter.flush(&mut each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_said() {
        let mut cutter = LineCutter::new(4);
        let mut lines = Vec::new();
        let mut each = |line: &str| lines.push(line.to_owned());
        cutter.push(b"ab\ncdefgh", &mut each);
        cutter.push(b"ij\r\n\nk", &mut each);
        cutter.flush(&mut each);
        assert_eq!(lines, ["ab", "cdef [5 bytes left out]", "", "k"]);
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let tail = Tail::default();
        for n in 0..1000 {
            tail.push(&format!("line {n}"));
        }
        let text = tail.text();
        assert!(text.ends_with("line 999") && text.len() <= TAIL_BYTES);
    }
}
