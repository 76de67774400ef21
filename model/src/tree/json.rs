//! JSON text → trees, with the place of every value: `serde_json` tells the place of a syntax
//! error, but not where a field of a valid text stands.

use std::borrow::Cow;

use super::{Builder, MAX_DEPTH, MAX_NODES, NodeId, SyntaxError, Tree, Value};
use crate::problem::Mark;

/// Reads the only value of a text; `None` when it is empty.
///
/// # Errors
///
/// When the text is no JSON, or exceeds a limit.
pub fn read(text: &str) -> Result<Option<Tree<'_>>, SyntaxError> {
    let mut reader = Reader { text, at: 0, line: 0, counted: 0, column: 0 };
    reader.skip_space();
    if reader.at == text.len() {
        return Ok(None);
    }
    let mut builder = Builder::default();
    let root = reader.value(&mut builder, 0)?;
    reader.skip_space();
    if reader.at < text.len() {
        return reader.error("unexpected text after the value");
    }
    Ok(Some(builder.finish(root)))
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    line: u32,
    /// The byte up to which the current line's columns are counted, and their number: the whole
    /// text may be one line.
    counted: usize,
    column: u32,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.counted = self.at + 1;
                    self.column = 0;
                }
                b' ' | b'\t' | b'\r' => {}
                _ => break,
            }
            self.at += 1;
        }
    }

    /// The place of a token from byte `start` to here; tokens come in order.
    fn mark(&mut self, start: usize) -> Mark {
        self.column += self.text[self.counted..start].chars().count() as u32;
        self.counted = start;
        let length = self.text[start..self.at].chars().count() as u32;
        Mark { line: self.line, column: self.column, length }
    }

    fn error<T>(&mut self, message: &str) -> Result<T, SyntaxError> {
        let message = format!("not valid JSON: {message}");
        Err(SyntaxError { message, mark: self.mark(self.at) })
    }

    fn value(&mut self, builder: &mut Builder<'t>, depth: usize) -> Result<NodeId, SyntaxError> {
        if depth > MAX_DEPTH {
            return self.error(&format!("nested deeper than {MAX_DEPTH} levels"));
        }
        if builder.nodes.len() >= MAX_NODES {
            return self.error(&format!("more than {MAX_NODES} values: split the file"));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(builder, depth),
            Some(b'[') => self.array(builder, depth),
            Some(b'"') => self.string(builder),
            Some(_) => self.literal(builder),
            None => self.error("unexpected end of the text inside a value"),
        }
    }

    fn object(&mut self, builder: &mut Builder<'t>, depth: usize) -> Result<NodeId, SyntaxError> {
        let mark = self.mark(self.at);
        let from = builder.pending.len();
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return self.error("expected a key in quotes");
                }
                let key = self.string(builder)?;
                builder.pending.push(key);
                self.skip_space();
                if self.peek() != Some(b':') {
                    return self.error("expected `:`");
                }
                self.at += 1;
                let value = self.value(builder, depth + 1)?;
                builder.pending.push(value);
                if self.ends_with(b'}')? {
                    break;
                }
            }
        }
        let children = builder.close(from);
        Ok(builder.add(mark, Value::Mapping(children)))
    }

    fn array(&mut self, builder: &mut Builder<'t>, depth: usize) -> Result<NodeId, SyntaxError> {
        let mark = self.mark(self.at);
        let from = builder.pending.len();
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                let value = self.value(builder, depth + 1)?;
                builder.pending.push(value);
                if self.ends_with(b']')? {
                    break;
                }
            }
        }
        let children = builder.close(from);
        Ok(builder.add(mark, Value::Sequence(children)))
    }

    /// After an element: `true` at the end of the collection, `false` after a comma.
    fn ends_with(&mut self, close: u8) -> Result<bool, SyntaxError> {
        self.skip_space();
        match self.peek() {
            Some(byte) if byte == close => self.at += 1,
            Some(b',') => {
                self.at += 1;
                return Ok(false);
            }
            Some(_) => return self.error(&format!("expected `,` or `{}`", close as char)),
            None => return self.error("unexpected end of the text inside a value"),
        }
        Ok(true)
    }

    fn string(&mut self, builder: &mut Builder<'t>) -> Result<NodeId, SyntaxError> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += 1;
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 1;
                }
                Some(byte) if byte < b' ' => {
                    return self.error("a control character in a string must be escaped");
                }
                Some(_) => {}
                None => {
                    self.at = self.text.len();
                    return self.error("unexpected end of the text inside a string");
                }
            }
        }
        let inner = &self.text[start + 1..self.at];
        self.at += 1;
        let mark = self.mark(start);
        let text = match escaped {
            false => Cow::Borrowed(inner),
            true => match serde_json::from_str(&self.text[start..self.at]) {
                Ok(text) => Cow::Owned(text),
                Err(_) => {
                    let message = "not valid JSON: an invalid escape in this string".to_owned();
                    return Err(SyntaxError { message, mark });
                }
            },
        };
        Ok(builder.add(mark, Value::Quoted(text)))
    }

    fn literal(&mut self, builder: &mut Builder<'t>) -> Result<NodeId, SyntaxError> {
        let start = self.at;
        let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        while self.peek().is_some_and(is_part) {
            self.at += 1;
        }
        let text = &self.text[start..self.at];
        let number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && serde_json::from_str::<serde_json::Number>(text).is_ok();
        if !number && !matches!(text, "true" | "false" | "null") {
            self.at = start;
            return self.error("expected a value");
        }
        let mark = self.mark(start);
        Ok(builder.add(mark, Value::Plain(Cow::Borrowed(text))))
    }
}
