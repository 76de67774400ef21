//! What is wrong with an object, and where: the words for the log, `/status` and
//! `switchyard check`.
//!
//! A problem is located relative to its document, because a document that did not change keeps
//! its problems when lines are added above it. Left out: what follows from a problem; that is
//! the folder's work.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The object is not served as written.
    Error,
    /// The object is served, but perhaps not as its author expects.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Error => "error",
            Level::Warning => "warning",
        })
    }
}

/// A place in a text: line and column count from 0, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// Characters on that line that belong to it; 0 when unknown.
    pub(crate) length: u32,
}

/// Something that an author should mend or know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Problem {
    pub(crate) level: Level,
    /// One line, the field's path first: `spec.ports[0].port: Invalid value: …`.
    pub(crate) message: String,
    /// What to do about it, when the message does not say so itself.
    pub(crate) help: Option<String>,
    pub(crate) mark: Mark,
    /// The offending line with the line before it; empty where it must not be shown.
    pub(crate) excerpt: Excerpt,
}

/// The offending line and the one before it, cut to a readable width.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Excerpt {
    /// The first line's number, from 0 at the start of the document.
    pub(crate) first_line: u32,
    pub(crate) lines: Vec<String>,
}

/// Longer lines are cut: an excerpt is for a person, and a line may have 100 MB.
const EXCERPT_COLUMNS: usize = 160;

impl Excerpt {
    /// The lines around a place in a text.
    pub(crate) fn around(text: &str, mark: Mark) -> Excerpt {
        let first = mark.line.saturating_sub(1);
        let lines = text
            .lines()
            .skip(first as usize)
            .take((mark.line - first) as usize + 1)
            .map(|line| line.chars().take(EXCERPT_COLUMNS).collect())
            .collect();
        Excerpt { first_line: first, lines }
    }
}

impl Problem {
    /// The excerpt with line numbers and a caret below the place, one string a line.
    /// `lines_above` is the number of lines before the document in its file.
    pub(crate) fn drawing(&self, lines_above: u32) -> Vec<String> {
        let mut drawing = Vec::new();
        let last = self.excerpt.first_line + self.excerpt.lines.len() as u32 + lines_above;
        let width = last.to_string().len();
        for (i, line) in self.excerpt.lines.iter().enumerate() {
            let number = lines_above + self.excerpt.first_line + i as u32 + 1;
            drawing.push(format!("{number:>width$} | {line}"));
        }
        let column = self.mark.column as usize;
        if !drawing.is_empty() && column < EXCERPT_COLUMNS {
            let room = EXCERPT_COLUMNS - column;
            let carets = "^".repeat((self.mark.length as usize).clamp(1, room));
            drawing.push(format!("{:>width$} | {:column$}{carets}", "", ""));
        }
        drawing
    }
}
