//! A problem with its place in a file: for the log, `/status` and `switchyard check`.

use std::fmt;
use std::sync::Arc;

use crate::path::FilePath;
use model::Kind;
use model::problem::{Excerpt, Level, Mark, Problem};
use model::record::{RecordKey, RecordKind};

/// Something that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    pub file: FilePath,
    pub object: Option<RecordKey>,
    pub problem: Arc<Problem>,
    /// Lines of the file before the problem's document.
    pub lines_above: u32,
}

impl Report {
    /// From 1.
    pub fn line(&self) -> u32 {
        self.lines_above + self.problem.mark.line + 1
    }

    /// From 1.
    pub fn column(&self) -> u32 {
        self.problem.mark.column + 1
    }

    pub fn is_error(&self) -> bool {
        self.problem.level == Level::Error
    }

    pub fn is_warning(&self) -> bool {
        self.problem.level == Level::Warning
    }

    /// The offending lines with a caret below the place; none where they must not be shown.
    ///
    /// What only turned out beside another file has no excerpt yet, so the file is read again.
    pub fn drawing(&self) -> Vec<String> {
        let secret = |key: &RecordKey| key.kind == RecordKind::Of(Kind::Secret);
        if self.problem.excerpt.is_some() || self.object.as_ref().is_none_or(secret) {
            return self.problem.drawing(self.lines_above);
        }
        let Ok(text) = std::fs::read_to_string(&*self.file) else { return Vec::new() };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let mark = Mark { line: self.line() - 1, ..self.problem.mark };
        let excerpt = Some(Excerpt::around(text, mark.byte_in(text)));
        Problem { excerpt, ..Problem::clone(&self.problem) }.drawing(self.lines_above)
    }
}

impl Report {
    /// As `/status` shows it, with the offending lines.
    pub fn to_json(&self) -> serde_json::Value {
        let mut value = self.summary();
        value["lines"] = self.drawing().into();
        value
    }

    /// As `/status` shows it.
    pub fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "file": self.file.display().to_string(),
            "line": self.line(),
            "column": self.column(),
            "object": self.object.as_ref().map(ToString::to_string),
            "message": self.problem.message,
            "help": self.problem.help,
            "level": self.problem.level,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line, column) = (self.file.display(), self.line(), self.column());
        let Problem { level, message, .. } = &*self.problem;
        write!(f, "{file}:{line}:{column}: {level}: {message}")
    }
}
