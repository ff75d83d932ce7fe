//! The two streams that are written to, and what they can show.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Width where nobody says it.
const WIDTH: usize = 100;
/// Height where nobody says it, lines.
const HEIGHT: usize = 40;

/// How a text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// What a stream can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) terminal: bool,
    pub(super) colour: bool,
    pub(super) width: usize,
}

impl Look {
    #[cfg(test)]
    pub(super) const PIPE: Self = Self { terminal: false, colour: false, width: WIDTH };

    pub(super) fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            Style::Dim => "2",
            Style::Red => "31",
            Style::Green => "32",
            Style::Yellow => "33",
            Style::Cyan => "36",
        };
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Both streams.
pub(super) struct Screen {
    pub(super) out: Box<dyn Write>,
    pub(super) err: Box<dyn Write>,
    pub(super) out_look: Look,
    pub(super) err_look: Look,
    /// Lines of what was painted last, which the next painting takes the place of. None: nothing was painted yet.
    painted: Option<usize>,
}

impl Screen {
    pub(super) fn of_process(environment: &BTreeMap<String, String>) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let plain = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = environment.get("TERM").is_some_and(|term| term == "dumb");
        let width = rustix::termios::tcgetwinsize(&out).or_else(|_| rustix::termios::tcgetwinsize(&err));
        let width =
            width.map(|size| usize::from(size.ws_col)).ok().filter(|width| *width > 20).unwrap_or(WIDTH);
        let look =
            |terminal: bool| Look { terminal: terminal && !dumb, colour: terminal && !dumb && !plain, width };
        Self {
            out_look: look(out.is_terminal()),
            err_look: look(err.is_terminal()),
            out: Box::new(BufWriter::new(out)),
            err: Box::new(BufWriter::new(err)),
            painted: None,
        }
    }

    /// Writes lines to stdout, on a terminal in the place of those that were painted before, and as many as fit there;
    /// elsewhere below them.
    pub(super) fn repaint(&mut self, lines: &[String]) -> io::Result<()> {
        let before = self.painted.replace(0);
        if !self.out_look.terminal {
            if before.is_some() {
                writeln!(self.out)?;
            }
            return lines
                .iter()
                .try_for_each(|line| writeln!(self.out, "{line}"))
                .and_then(|()| self.flush());
        }
        let (width, height) = size().unwrap_or((self.out_look.width, HEIGHT));
        let fitting = height.saturating_sub(1).max(1);
        let hidden = if lines.len() > fitting { lines.len() - (fitting - 1) } else { 0 };
        if let Some(up) = before.filter(|lines| *lines > 0) {
            write!(self.out, "\x1b[{up}A")?;
        }
        let more = (hidden > 0).then(|| format!("… and {hidden} more lines"));
        let shown: Vec<&String> = lines.iter().take(lines.len() - hidden).chain(&more).collect();
        for line in &shown {
            // What stands to the right of the new line goes, and what stands below the last one.
            writeln!(self.out, "\r{}\x1b[K", cut_painted(line, width))?;
        }
        write!(self.out, "\x1b[J")?;
        self.painted = Some(shown.len());
        self.flush()
    }

    /// Lets what was painted stand.
    pub(super) fn leave(&mut self) {
        self.painted = self.painted.map(|_| 0);
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }

    /// Writes a line to stdout and lets it go.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.flush()
    }

    /// Writes a line to stderr and lets it go.
    pub(super) fn message(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.err, "{text}")?;
        self.flush()
    }
}

/// Text of others without what could steer a terminal. Of a line that was written over, the last text counts.
pub(super) fn clean(text: &str) -> String {
    let last = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let mut clean = String::with_capacity(last.len());
    let mut rest = last.chars();
    while let Some(c) = rest.next() {
        match c {
            // A sequence that begins with `ESC [` ends with its first letter.
            '\x1b' if rest.as_str().starts_with('[') => {
                rest.by_ref().skip(1).find(|c| ('@'..='~').contains(c));
            }
            '\t' => clean.push(c),
            c if c.is_control() => {}
            c => clean.push(c),
        }
    }
    clean
}

/// The same for a text of several lines.
pub(super) fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// At most `width` characters; a cut shows.
pub(super) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The terminal's columns and lines at this moment.
fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// At most `width` characters of a line that may be painted; a cut shows.
fn cut_painted(line: &str, width: usize) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line.chars().peekable();
    let mut count = 0;
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            // A colour takes no place; it ends with its first letter.
            kept.push(c);
            kept.extend(std::iter::from_fn(|| rest.next_if(|c| !c.is_ascii_alphabetic())));
            kept.extend(rest.next());
            continue;
        }
        count += 1;
        match count {
            over if over > width => continue,
            last if last == width && rest.peek().is_some_and(|c| *c != '\x1b') => kept.push('…'),
            _ => kept.push(c),
        }
    }
    kept
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What was written, for tests to look at.
    #[derive(Clone, Default)]
    pub(in crate::output) struct Kept(Rc<RefCell<Vec<u8>>>);

    impl Kept {
        pub(in crate::output) fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.borrow_mut())).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Two pipes.
    pub(in crate::output) fn pipes() -> (Screen, Kept, Kept) {
        let (out, err) = (Kept::default(), Kept::default());
        let screen = Screen {
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            out_look: Look::PIPE,
            err_look: Look::PIPE,
            painted: None,
        };
        (screen, out, err)
    }

    #[test]
    fn a_plugin_cannot_steer_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\x07\x1b[0m"), "ab");
        assert_eq!(clean("cut off\x1b[31"), "cut off");
        assert_eq!(clean("\x1b]0;title\x07x"), "]0;titlex");
        assert_eq!(clean("10 %\r20 %\r"), "20 %");
        assert_eq!(clean_lines("a\x1b\nb"), "a\nb");
    }

    #[test]
    fn cuts_show() {
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".to_owned(), "ab…".to_owned()));
    }

    #[test]
    fn a_painting_takes_the_place_of_the_one_before() {
        let (mut screen, out, _) = pipes();
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        screen.repaint(&lines(&["a", "b"])).unwrap();
        screen.repaint(&lines(&["c"])).unwrap();
        assert_eq!(out.take(), "a\nb\n\nc\n", "where nothing can move, a blank line parts them");
        screen.painted = None;
        screen.out_look = Look { terminal: true, ..Look::PIPE };
        screen.repaint(&lines(&["a", "b"])).unwrap();
        assert_eq!(out.take(), "\ra\x1b[K\n\rb\x1b[K\n\x1b[J");
        screen.repaint(&lines(&["c"])).unwrap();
        assert_eq!(out.take(), "\x1b[2A\rc\x1b[K\n\x1b[J");
        screen.leave();
        screen.repaint(&lines(&["d"])).unwrap();
        assert_eq!(out.take(), "\rd\x1b[K\n\x1b[J");
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        screen.repaint(&many).unwrap();
        let shown = out.take();
        assert!(shown.lines().count() <= HEIGHT && shown.contains("more lines"), "{shown}");
    }

    #[test]
    fn a_painted_line_is_cut_by_what_is_seen() {
        assert_eq!(cut_painted("\x1b[31mabcd\x1b[0m", 4), "\x1b[31mabcd\x1b[0m");
        assert_eq!(cut_painted("\x1b[31mabcde\x1b[0m fg", 4), "\x1b[31mabc…\x1b[0m");
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        assert_eq!(Look::PIPE.paint(Style::Red, "x"), "x");
        assert_eq!(Look { colour: true, ..Look::PIPE }.paint(Style::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
