//! The demo's table: what was sent, what answered, and whether that was expected.

use std::io::{self, Write};

/// Prints a row as soon as it is known.
pub(crate) struct Table<W> {
    out: W,
    rows: usize,
    unexpected: usize,
}

/// One row: a request, or several alike.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) part: &'static str,
    pub(crate) sent: String,
    pub(crate) answered: String,
    pub(crate) expected: bool,
}

impl<W: Write> Table<W> {
    pub(crate) fn new(out: W) -> Table<W> {
        Table { out, rows: 0, unexpected: 0 }
    }

    pub(crate) fn print(&mut self, row: &Row) -> io::Result<()> {
        if self.rows == 0 {
            self.line("PART", "SENT", "ANSWERED", "")?;
        }
        self.rows += 1;
        let verdict = if row.expected {
            "ok"
        } else {
            self.unexpected += 1;
            "UNEXPECTED"
        };
        self.line(row.part, &row.sent, &row.answered, verdict)
    }

    /// Prints the count. Returns whether there was a row and every row was as expected.
    pub(crate) fn finish(mut self) -> io::Result<bool> {
        let expected = self.rows - self.unexpected;
        writeln!(self.out, "\n{expected} of {} as expected", self.rows)?;
        Ok(self.rows > 0 && self.unexpected == 0)
    }

    fn line(&mut self, part: &str, sent: &str, answered: &str, verdict: &str) -> io::Result<()> {
        let line = format!("{part:<7} {sent:<39} {answered:<28} {verdict}");
        writeln!(self.out, "{}", line.trim_end())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_unexpected_row_is_told_and_fails_the_table() {
        let mut out = Vec::new();
        let mut table = Table::new(&mut out);
        for expected in [true, false] {
            let (sent, answered) = ("GET /".to_owned(), "200".to_owned());
            table.print(&Row { part: "ingress", sent, answered, expected }).unwrap();
        }
        assert!(!table.finish().unwrap());
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("UNEXPECTED") && text.ends_with("1 of 2 as expected\n"), "{text}");
    }

    #[test]
    fn an_empty_table_is_not_a_success() {
        assert!(!Table::new(Vec::new()).finish().unwrap());
    }
}
