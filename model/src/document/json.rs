//! Splits JSON text into its values, and a list among them into its items.
//!
//! It only matches strings and brackets; the parser decides whether the text is JSON. A text whose
//! brackets do not match is not split, so that the parser can report it.

use super::part::{Document, MAX_DOCUMENTS, Shape};

/// The values of a text, each as a document of its own.
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let whole = Document { text, lines_above: 0, columns_before: 0, shape: Shape::Whole };
    let start = text.len() - text.trim_start_matches('\u{feff}').len();
    let mut scan = Scan { text, at: start, documents: Vec::new(), seen: start, line: 0, column: 0 };
    match scan.values() {
        Some(()) => scan.documents,
        None => vec![whole],
    }
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    documents: Vec<Document<'t>>,
    /// Lines and columns are counted up to here.
    seen: usize,
    line: u32,
    column: u32,
}

impl<'t> Scan<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn values(&mut self) -> Option<()> {
        loop {
            self.skip_space();
            let start = self.at;
            match self.peek() {
                None => return Some(()),
                Some(_) if self.documents.len() > MAX_DOCUMENTS => return Some(()),
                Some(b'{') => self.object(start)?,
                Some(_) => {
                    self.value()?;
                    self.push(start, self.at);
                }
            }
        }
    }

    /// An object of the top level; a `v1` List as its items.
    fn object(&mut self, start: usize) -> Option<()> {
        let mut items = Vec::new();
        let (mut is_list, mut is_v1) = (false, false);
        self.at += 1;
        self.skip_space();
        let mut more = self.peek()? != b'}';
        while more {
            self.skip_space();
            let key = self.span()?;
            self.skip_space();
            (self.peek()? == b':').then(|| self.at += 1)?;
            self.skip_space();
            if key == "\"items\"" && self.peek()? == b'[' {
                items = self.elements()?;
            } else {
                let value = self.span()?;
                is_list |= key == "\"kind\"" && value == "\"List\"";
                is_v1 |= key == "\"apiVersion\"" && value == "\"v1\"";
            }
            more = self.comma(b'}')?;
        }
        self.at += 1;
        if !(is_list && is_v1 && !items.is_empty()) {
            self.push(start, self.at);
            return Some(());
        }
        for (from, to) in items {
            self.push(from, to);
        }
        Some(())
    }

    /// The elements of the array that begins here, as ranges of the text.
    fn elements(&mut self) -> Option<Vec<(usize, usize)>> {
        let mut elements = Vec::new();
        self.at += 1;
        self.skip_space();
        let mut more = self.peek()? != b']';
        while more && elements.len() <= MAX_DOCUMENTS {
            self.skip_space();
            let start = self.at;
            self.value()?;
            elements.push((start, self.at));
            more = self.comma(b']')?;
        }
        self.at += 1;
        Some(elements)
    }

    /// Whether a comma follows, which is skipped, and not the end.
    fn comma(&mut self, close: u8) -> Option<bool> {
        self.skip_space();
        match self.peek()? {
            b',' => {
                self.at += 1;
                Some(true)
            }
            byte => (byte == close).then_some(false),
        }
    }

    fn span(&mut self) -> Option<&'t str> {
        let start = self.at;
        self.value()?;
        Some(&self.text[start..self.at])
    }

    /// Skips one value.
    fn value(&mut self) -> Option<()> {
        let mut depth = 0usize;
        loop {
            match self.peek()? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth == 0 => return None,
                byte if depth > 0 && (byte.is_ascii_whitespace() || b",:".contains(&byte)) => {
                    self.at += 1;
                    continue;
                }
                _ => self.literal()?,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        loop {
            self.at += 1;
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.at += 1;
        Some(())
    }

    /// A number, `true`, `false` or `null`, or an invalid token.
    fn literal(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// Adds a range of the text as a document. Ranges come in order, so that lines and columns
    /// are counted once: a file may be one line.
    fn push(&mut self, start: usize, end: usize) {
        let between = &self.text[self.seen..start];
        match between.rfind('\n') {
            Some(last) => {
                self.line += between.matches('\n').count() as u32;
                self.column = between[last + 1..].chars().count() as u32;
            }
            None => self.column += between.chars().count() as u32,
        }
        self.seen = start;
        self.documents.push(Document {
            text: &self.text[start..end],
            lines_above: self.line,
            columns_before: self.column,
            shape: Shape::Whole,
        });
    }
}
