//! What is wrong with an object, and where: the text for the log, `/status` and `switchyard check`.
//!
//! The position of a problem is relative to its document, because a document that did not change
//! keeps its problems when lines are added above it. Left out: the consequences of a problem, which
//! the folder decides.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The object is not served as written.
    Error,
    /// The object is served, but perhaps not as its author expects.
    Warning,
    /// The object is served by Switchyard; a Kubernetes API might refuse it.
    Note,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        })
    }
}

/// A place in a text: line and column count from 0, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub line: u32,
    pub column: u32,
    /// Characters on that line that belong to it; 0 when unknown.
    pub length: u32,
}

impl Mark {
    /// Its byte offset in a text; the text's end if it is beyond.
    pub fn byte_in(self, text: &str) -> usize {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line = match self.line.checked_sub(1) {
            None => Some(0),
            Some(above) => newlines.map(|(i, _)| i + 1).nth(above as usize),
        };
        let Some(line) = line else { return text.len() };
        let column = text[line..].char_indices().nth(self.column as usize);
        column.map_or(text.len(), |(i, _)| line + i)
    }
}

/// Something that an author should fix or know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    pub level: Level,
    /// One line, the field's path first: `spec.ports[0].port: Invalid value: …`.
    pub message: String,
    /// What to do about it, if the message does not say so.
    pub help: Option<String>,
    pub mark: Mark,
    /// The excerpt, if it may be shown.
    pub excerpt: Option<Excerpt>,
}

/// The offending line and the one before it, cut to a readable width.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Excerpt {
    before: Option<String>,
    line: String,
    /// The column on the line, in characters; it differs from the mark's column if the beginning of
    /// the line was cut off.
    caret: u32,
}

/// The longest excerpt of a line, because a line may have 100 MB.
const EXCERPT_COLUMNS: usize = 120;
/// If the beginning of a line is cut off, this much remains before the place.
const CONTEXT_COLUMNS: usize = 60;

impl Excerpt {
    /// The line of a byte of a text, and the line before.
    pub fn around(text: &str, at: usize) -> Excerpt {
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let head = &text[start..at];
        let shown =
            head.char_indices().rev().take(EXCERPT_COLUMNS).last().map_or(at, |(i, _)| start + i);
        let cut = shown > start;
        let shown = match cut {
            true => head
                .char_indices()
                .rev()
                .take(CONTEXT_COLUMNS)
                .last()
                .map_or(at, |(i, _)| start + i),
            false => start,
        };
        let caret = text[shown..at].chars().count() as u32;
        let line = line_at(text, shown);
        let before = (start > 0).then(|| {
            let end = start - 1;
            line_at(text, text[..end].rfind('\n').map_or(0, |newline| newline + 1))
        });
        Excerpt { before: before.filter(|_| !cut), line, caret }
    }
}

/// The line that begins at a byte, shortened if necessary, without control characters, which a
/// terminal could interpret.
fn line_at(text: &str, start: usize) -> String {
    let line = text[start..].chars().take_while(|c| !matches!(c, '\n' | '\r'));
    let shown = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    line.take(EXCERPT_COLUMNS).map(shown).collect()
}

impl Problem {
    /// The excerpt with line numbers and a caret below the place, one string a line.
    /// `lines_above` is the number of lines before the document in its file.
    pub fn drawing(&self, lines_above: u32) -> Vec<String> {
        let Some(excerpt) = &self.excerpt else { return Vec::new() };
        let number = lines_above + self.mark.line + 1;
        let width = number.to_string().len();
        let mut drawing = Vec::new();
        if let Some(before) = &excerpt.before {
            drawing.push(format!("{:>width$} | {before}", number - 1));
        }
        drawing.push(format!("{number:>width$} | {}", excerpt.line));
        let caret = excerpt.caret as usize;
        let room = EXCERPT_COLUMNS.saturating_sub(caret).max(1);
        let carets = "^".repeat((self.mark.length as usize).clamp(1, room));
        drawing.push(format!("{:>width$} | {:caret$}{carets}", "", ""));
        drawing
    }
}
