//! One document of a file: a part of its text.

/// Documents of one file: each takes some hundred bytes of memory, even a short one.
pub const MAX_DOCUMENTS: usize = 100_000;

/// One document: a part of the file's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'t> {
    /// From the document's marker, or its directives, to the next document.
    pub text: &'t str,
    /// Lines of the file before it.
    pub lines_above: u32,
    /// Columns of its first line before it.
    pub columns_before: u32,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Whole,
    /// One element of a YAML sequence, its dash included.
    Item,
}
