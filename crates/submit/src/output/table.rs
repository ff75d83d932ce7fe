//! Aligned columns for people.

use super::screen::{Look, Style, clean, cut};

/// Between two columns.
const GAP: &str = "  ";
/// Least width that the last column keeps when a line is too long.
const LEAST: usize = 12;

/// One cell.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn styled(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: clean(text.as_ref()), style }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::styled(text, Style::Plain)
    }
}

/// Rows under headers. A header that begins with `>` is of a column of numbers, aligned to the right.
pub(super) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new<const N: usize>(headers: [&'static str; N]) -> Self {
        Self { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.to_vec());
    }

    /// The lines. On a terminal the last column is cut where a line would be too long.
    pub(super) fn lines(&self, look: Look) -> Vec<String> {
        let headers: Vec<Cell> =
            self.headers.iter().map(|h| Cell::styled(h.trim_start_matches('>'), Style::Dim)).collect();
        let widths: Vec<usize> = (0..headers.len())
            .map(|i| {
                let rows = self.rows.iter().filter_map(|row| row.get(i)).map(Cell::width);
                rows.max().unwrap_or(0).max(headers[i].width())
            })
            .collect();
        let has_headers = headers.iter().any(|header| !header.text.is_empty());
        let headers = has_headers.then_some(&headers);
        headers.into_iter().chain(&self.rows).map(|row| self.line(row, &widths, look)).collect()
    }

    fn line(&self, cells: &[Cell], widths: &[usize], look: Look) -> String {
        let mut line = String::new();
        let mut used = 0;
        for (i, cell) in cells.iter().enumerate() {
            let last = i + 1 == cells.len();
            let text = if last && look.terminal {
                cut(&cell.text, look.width.saturating_sub(used).max(LEAST))
            } else {
                cell.text.clone()
            };
            let padding = " ".repeat(widths[i].saturating_sub(text.chars().count()));
            let painted = look.paint(cell.style, &text);
            match (self.headers[i].starts_with('>'), last) {
                (true, _) => line.extend([padding.as_str(), painted.as_str()]),
                (false, true) => line.push_str(&painted),
                (false, false) => line.extend([painted.as_str(), padding.as_str()]),
            }
            if !last {
                line.push_str(GAP);
            }
            used += widths[i] + GAP.len();
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["JOB", ">RUN", "NOTE"]);
        table.row(["a".into(), "5".into(), "".into()]);
        table.row(["long-id".into(), "120".into(), "x y".into()]);
        assert_eq!(table.lines(Look::PIPE), ["JOB      RUN  NOTE", "a          5", "long-id  120  x y"]);
    }

    #[test]
    fn only_a_terminal_cuts() {
        let mut table = Table::new(["", ""]);
        table.row(["key".into(), "x".repeat(200).into()]);
        let narrow = Look { terminal: true, colour: false, width: 30 };
        assert_eq!(table.lines(narrow)[0].chars().count(), 30);
        assert_eq!(table.lines(Look::PIPE)[0].len(), 205);
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = Table::new(["A", "B"]);
        table.row([Cell::styled("x", Style::Red), "y".into()]);
        let colour = Look { colour: true, ..Look::PIPE };
        assert_eq!(table.lines(colour)[1], "\u{1b}[31mx\u{1b}[0m  y");
    }
}
