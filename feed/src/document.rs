//! Splits the text of a file into YAML documents.
//!
//! A line that begins with `---` or `...`, alone or followed by white space, is a document marker
//! wherever it stands (YAML 1.2.2 section 9.1.2: not even a block or quoted scalar may hold one),
//! so no parsing is needed, and a document with a syntax error cannot take down its neighbours.

/// One document: a part of the file's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Document<'t> {
    /// From the document's marker, or its directives, to the next document.
    pub(crate) text: &'t str,
    /// Lines of the file before it.
    pub(crate) lines_above: u32,
}

/// The documents of a text, without those that hold nothing but comments.
pub(crate) fn split(text: &str) -> Vec<Document<'_>> {
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
        (self.content || self.directives)
            .then_some(Document { text, lines_above: self.lines_above })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(&str, u32)]) {
        let found: Vec<_> = split(text).iter().map(|d| (d.text, d.lines_above)).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn documents_are_found_whatever_the_markers() {
        check("", &[]);
        check("\n\n", &[]);
        check("# only a comment\n", &[]);
        check("a: 1", &[("a: 1", 0)]);
        check("a: 1\n---\nb: 2\n", &[("a: 1\n", 0), ("---\nb: 2\n", 1)]);
        check("---\na: 1\n---\nb: 2\n", &[("---\na: 1\n", 0), ("---\nb: 2\n", 2)]);
        check("--- {a: 1}\n--- b\n", &[("--- {a: 1}\n", 0), ("--- b\n", 1)]);
        check("a: 1\r\n---\r\nb: 2\r\n", &[("a: 1\r\n", 0), ("---\r\nb: 2\r\n", 1)]);
        check("\u{feff}a: 1\n---\nb\n", &[("a: 1\n", 0), ("---\nb\n", 1)]);
        check("a: 1\n...\n# tail\n", &[("a: 1\n", 0)]);
        check("a: 1\n...\nb: 2\n", &[("a: 1\n", 0), ("b: 2\n", 2)]);
        check("# head\n---\na: 1\n", &[("---\na: 1\n", 1)]);
    }

    #[test]
    fn what_looks_like_a_marker_is_none() {
        check("a: |\n  ---\n  b\n", &[("a: |\n  ---\n  b\n", 0)]);
        check("----\n", &[("----\n", 0)]);
        check("---a\n", &[("---a\n", 0)]);
        check("a:\n- ...\n", &[("a:\n- ...\n", 0)]);
        check("....\n", &[("....\n", 0)]);
    }

    #[test]
    fn directives_belong_to_the_document_after_them() {
        check("%YAML 1.2\n---\na: 1\n", &[("%YAML 1.2\n---\na: 1\n", 0)]);
        check(
            "a: 1\n...\n%YAML 1.2\n# x\n---\nb: 2\n",
            &[("a: 1\n", 0), ("%YAML 1.2\n# x\n---\nb: 2\n", 2)],
        );
    }

    proptest! {
        /// The documents stand in the text in order, and nothing but comments is between them.
        #[test]
        fn documents_are_parts_of_the_text_in_order(
            lines in proptest::collection::vec(
                proptest::sample::select(vec!["---", "...", "a: 1", "# c", "", "  ---", "--- x"]),
                0..20,
            ),
        ) {
            let text = lines.join("\n");
            let documents = split(&text);
            let mut end = 0;
            for document in &documents {
                let start = document.text.as_ptr() as usize - text.as_ptr() as usize;
                prop_assert!(start >= end);
                let between = text[end..start].lines().all(|l| {
                    l.trim().is_empty() || l.starts_with('#') || l == "..."
                });
                prop_assert!(between, "{:?}", &text[end..start]);
                prop_assert_eq!(
                    text[..start].matches('\n').count() as u32,
                    document.lines_above
                );
                end = start + document.text.len();
            }
        }

        /// One document in, one document out, whatever stands beside it.
        #[test]
        fn joined_documents_split_again(count in 1usize..50) {
            let text: String = (0..count).map(|i| format!("---\nn: {i}\n")).collect();
            prop_assert_eq!(split(&text).len(), count);
        }
    }
}
