//! Splits the text of a file into documents, before anything is parsed.
//!
//! A line that begins with `---` or `...`, alone or followed by white space, is a document marker
//! at any position (YAML 1.2.2 section 9.1.2: not even a block or quoted scalar may contain one),
//! so a document with a syntax error does not affect its neighbours. Lists are split further, into
//! their items ([`list`], [`json`]). Documents whose text did not change are not parsed again.

mod json;
mod list;
mod part;

use std::sync::LazyLock;

pub use part::{Document, MAX_DOCUMENTS, Shape};

/// The format of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Yaml,
    Json,
}

/// The documents of a text, without those that contain only comments; at most a few more than
/// [`MAX_DOCUMENTS`].
pub fn split(text: &str, format: Format) -> Vec<Document<'_>> {
    match format {
        Format::Yaml => split_yaml(text),
        Format::Json => json::split(text),
    }
}

/// Approximate number of documents of a text: if it is lower than before, the end of the text may
/// be missing.
pub fn count(text: &str, format: Format) -> usize {
    if text.trim().is_empty() {
        return 0;
    }
    match format {
        Format::Yaml => 1 + memchr::memmem::find_iter(text.as_bytes(), "\n---").count(),
        // A part of a JSON text is not valid JSON, and invalid text removes no objects.
        Format::Json => 1,
    }
}

/// A text's hash, to recognise text that did not change.
pub fn hash(text: &str) -> u64 {
    use std::hash::BuildHasher;
    // Seeded for each process, so that nobody can construct two texts with the same hash.
    static SEED: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);
    SEED.hash_one(text)
}

/// The items of a List in a YAML document; `None` if it is not a List, or not in the simple form.
pub fn items<'t>(document: &Document<'t>) -> Option<Vec<Document<'t>>> {
    if !document.text.trim_start().starts_with('{') {
        return list::items(document);
    }
    // JSON is YAML too, and `kubectl` writes Lists as JSON.
    let items = json::split(document.text);
    let in_file = |item: Document<'t>| {
        let first_line = item.lines_above == 0;
        let columns = if first_line { document.columns_before } else { 0 };
        Document {
            lines_above: document.lines_above + item.lines_above,
            columns_before: columns + item.columns_before,
            ..item
        }
    };
    (items.len() > 1).then(|| items.into_iter().map(in_file).collect())
}

fn split_yaml(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut part = Part { start: 0, lines_above: 0, begun: false };
    for at in markers(text) {
        if documents.len() > MAX_DOCUMENTS {
            return documents;
        }
        let is_start = text.as_bytes()[at] == b'-';
        if is_start && !part.begun && prologue(&text[part.start..at]) == Prologue::Directives {
            // The directives before it belong to this document.
            part.begun = true;
            continue;
        }
        documents.extend(part.end(text, at));
        let lines = memchr::memchr_iter(b'\n', &text.as_bytes()[part.start..at]).count() as u32;
        part.lines_above += lines;
        part.start = at;
        part.begun = is_start;
        if !is_start {
            let line = memchr::memchr(b'\n', &text.as_bytes()[at..]);
            part.lines_above += u32::from(line.is_some());
            part.start = line.map_or(text.len(), |line| at + line + 1);
        }
    }
    documents.extend(part.end(text, text.len()));
    documents
}

/// Where the lines begin that are document markers.
fn markers(text: &str) -> impl Iterator<Item = usize> + '_ {
    let is_marker = |at: &usize| {
        let line = &text.as_bytes()[*at..];
        let ends = matches!(line.get(3), None | Some(b' ' | b'\t' | b'\r' | b'\n'));
        ends && (line.starts_with(b"---") || line.starts_with(b"..."))
    };
    let lines = memchr::memchr_iter(b'\n', text.as_bytes()).map(|newline| newline + 1);
    std::iter::once(0).chain(lines).filter(is_marker)
}

/// The content before a `---`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prologue {
    Empty,
    Directives,
    Content,
}

/// Reads up to the first line of content.
fn prologue(text: &str) -> Prologue {
    let mut found = Prologue::Empty;
    for line in text.split_inclusive('\n') {
        match line.trim_start_matches([' ', '\t', '\u{feff}']).bytes().next() {
            None | Some(b'#' | b'\r' | b'\n') => {}
            Some(b'%') if line.starts_with('%') => found = Prologue::Directives,
            Some(_) => return Prologue::Content,
        }
    }
    found
}

/// A document whose end has not been seen yet.
struct Part {
    start: usize,
    lines_above: u32,
    /// It has a `---` of its own.
    begun: bool,
}

impl Part {
    fn end<'t>(&self, text: &'t str, end: usize) -> Option<Document<'t>> {
        let text = &text[self.start..end];
        let counts = self.begun || prologue(text) != Prologue::Empty;
        counts.then_some(Document {
            text,
            lines_above: self.lines_above,
            columns_before: 0,
            shape: Shape::Whole,
        })
    }
}

#[cfg(test)]
mod tests;
