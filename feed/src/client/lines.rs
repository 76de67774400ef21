//! Bytes of a watch as they arrive → lines, each at most so long.
//!
//! A line that lies within one chunk is not copied. What is longer than the limit is passed on
//! as its beginning only and costs no more memory than that.

use std::ops::ControlFlow;

/// A line of the stream, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Whole(&'a [u8]),
    /// The beginning of a line that is longer than the limit.
    TooLong(&'a [u8]),
}

#[derive(Debug)]
pub(crate) struct Lines {
    limit: usize,
    /// What came of the line that has not ended.
    partial: Vec<u8>,
    /// The line was passed on as too long: the rest of it is skipped.
    skipping: bool,
}

/// A buffer that grew beyond this for one long line is given back after it.
const KEPT_CAPACITY: usize = 1 << 20;

impl Lines {
    pub(crate) fn new(limit: usize) -> Lines {
        Lines { limit, partial: Vec::new(), skipping: false }
    }

    /// Passes on each line that the chunk completes. Empty lines are none.
    pub(crate) fn push<B>(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(Line<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                self.pass(line, &mut each)?;
                continue;
            }
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(&line[..line.len().min(self.limit + 1)]);
            self.pass(&whole, &mut each)?;
            whole.clear();
            whole.shrink_to(KEPT_CAPACITY);
            self.partial = whole;
        }
        if self.skipping {
            return ControlFlow::Continue(());
        }
        let room = (self.limit + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&rest[..rest.len().min(room)]);
        if self.partial.len() > self.limit {
            self.skipping = true;
            let begun = std::mem::take(&mut self.partial);
            return each(Line::TooLong(&begun[..self.limit]));
        }
        ControlFlow::Continue(())
    }

    /// Whether the stream stopped inside a line.
    pub(crate) fn is_inside(&self) -> bool {
        self.skipping || !self.partial.is_empty()
    }

    fn pass<B>(
        &self,
        line: &[u8],
        each: &mut impl FnMut(Line<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() {
            0 => ControlFlow::Continue(()),
            length if length > self.limit => each(Line::TooLong(&line[..self.limit])),
            _ => each(Line::Whole(line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(limit: usize, chunks: &[&str]) -> (Vec<String>, bool) {
        let mut lines = Lines::new(limit);
        let mut found = Vec::new();
        for chunk in chunks {
            let flow: ControlFlow<()> = lines.push(chunk.as_bytes(), |line| {
                found.push(match line {
                    Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                    Line::TooLong(line) => format!("{}…", String::from_utf8_lossy(line)),
                });
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
        }
        (found, lines.is_inside())
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let table: [(&[&str], &[&str], bool); 11] = [
            (&["a\nb\n"], &["a", "b"], false),
            (&["a\r\n\r\nb\n"], &["a", "b"], false),
            (&["\n\n\n"], &[], false),
            (&["a", "b", "c\n"], &["abc"], false),
            (&["a\nb", "\nc"], &["a", "b"], true),
            (&["abcd\n"], &["abcd"], false),
            (&["abcde\nf\n"], &["abcd…", "f"], false),
            (&["abc", "de\nf\n"], &["abcd…", "f"], false),
            (&["abcde", "fgh", "ij\nk\n"], &["abcd…", "k"], false),
            (&["abcde", "fgh"], &["abcd…"], true),
            (&["abcdefgh\n", "abcd\n"], &["abcd…", "abcd"], false),
        ];
        for (chunks, lines, inside) in table {
            let (found, is_inside) = split(4, chunks);
            assert_eq!((found, is_inside), (lines.iter().map(|l| l.to_string()).collect(), inside));
        }
    }

    #[test]
    fn a_line_may_end_the_reading() {
        let mut lines = Lines::new(8);
        let flow = lines.push(b"a\nb\nc\n", |line| match line {
            Line::Whole(b"b") => ControlFlow::Break("b"),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(flow, ControlFlow::Break("b"));
    }
}
