//! Splits the text of a file into documents, before anything is parsed.
//!
//! A line that begins with `---` or `...`, alone or followed by white space, is a document marker
//! wherever it stands (YAML 1.2.2 section 9.1.2: not even a block or quoted scalar may hold one),
//! so a document with a syntax error cannot take down its neighbours. Lists are split further,
//! into their items ([`list`], [`json`]). What did not change by its text is not parsed again.

mod json;
mod list;

use crate::manifest::Format;

/// One document: a part of the file's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'t> {
    /// From the document's marker, or its directives, to the next document.
    pub(crate) text: &'t str,
    /// Lines of the file before it.
    pub(crate) lines_above: u32,
    /// Columns of its first line before it.
    pub(crate) columns_before: u32,
    pub(crate) shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// One element of a YAML sequence, its dash included.
    Item,
}

/// The documents of a text, without those that hold nothing but comments.
pub(crate) fn split(text: &str, format: Format) -> Vec<Document<'_>> {
    match format {
        Format::Yaml => split_yaml(text),
        Format::Json => json::split(text),
    }
}

/// The items of a YAML List; `None` when the document is none, or not plainly one.
pub(crate) fn items<'t>(document: &Document<'t>) -> Option<Vec<Document<'t>>> {
    list::items(document)
}

fn split_yaml(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let mut current = Part::starting_at(0, 0);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let number = number as u32;
        match marker(line) {
            Some(Marker::Start) if current.is_prologue() => current.content = true,
            Some(Marker::Start) => {
                documents.extend(current.end(text, offset));
                current = Part { content: true, ..Part::starting_at(offset, number) };
            }
            Some(Marker::End) => {
                documents.extend(current.end(text, offset));
                current = Part::starting_at(offset + line.len(), number + 1);
            }
            None => current.see(line),
        }
        offset += line.len();
    }
    documents.extend(current.end(text, text.len()));
    documents
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Marker {
    Start,
    End,
}

fn marker(line: &str) -> Option<Marker> {
    let (head, rest) = line.as_bytes().split_at_checked(3)?;
    if !matches!(rest.first(), None | Some(b' ' | b'\t' | b'\r' | b'\n')) {
        return None;
    }
    match head {
        b"---" => Some(Marker::Start),
        b"..." => Some(Marker::End),
        _ => None,
    }
}

/// A document whose end has not been seen yet.
struct Part {
    start: usize,
    lines_above: u32,
    directives: bool,
    content: bool,
}

impl Part {
    fn starting_at(start: usize, lines_above: u32) -> Part {
        Part { start, lines_above, directives: false, content: false }
    }

    /// Only directives and comments so far: the next `---` begins this document's content.
    fn is_prologue(&self) -> bool {
        self.directives && !self.content
    }

    fn see(&mut self, line: &str) {
        match line.trim_start_matches([' ', '\t', '\u{feff}']).bytes().next() {
            None | Some(b'#' | b'\r' | b'\n') => {}
            Some(b'%') if !self.content && line.starts_with('%') => self.directives = true,
            Some(_) => self.content = true,
        }
    }

    fn end<'t>(&self, text: &'t str, end: usize) -> Option<Document<'t>> {
        let text = &text[self.start..end];
        (self.content || self.directives).then_some(Document {
            text,
            lines_above: self.lines_above,
            columns_before: 0,
            shape: Shape::Whole,
        })
    }
}

#[cfg(test)]
mod tests;
