//! What to do about text that is not valid YAML.
//!
//! The parser names the place where it gave up, which is often one line below the mistake. A hint
//! is given only if the lines around that place leave one explanation. It describes lines by their
//! indentation and their order, never by their content, which may be a Secret's, nor by their
//! number, which changes when lines are added above the document. Left out: templates, which the
//! caller recognises.

use crate::problem::Mark;

/// What to do about the error of that message at a place of a document.
pub(super) fn of(text: &str, message: &str, mark: Mark) -> Option<String> {
    if message.contains(" tab") {
        return Some("indent with spaces: YAML does not allow tabs here".to_owned());
    }
    if ["invalid indentation in quoted", "end of stream"].iter().any(|part| message.contains(part))
    {
        let hint = "close the quotation mark that begins here, or indent every line of the text \
                    by more than its key";
        return Some(hint.to_owned());
    }
    let at = mark.line as usize;
    let line = Line::of(text.lines().nth(at)?)?;
    let before = |column: u32| line.content_before(column as usize);
    if message.contains("mapping values") && has_value(before(mark.column)) {
        return Some("put the value in quotes: it contains a colon and a space".to_owned());
    }
    if message.contains("sequence entries") && before(mark.column).ends_with(':') {
        return Some("begin the list on the next line, or write it in brackets".to_owned());
    }
    let above: Vec<Line<'_>> = text.lines().take(at).filter_map(Line::of).collect();
    let last = above.last()?;
    let misplaced = ["mapping values", "block mapping", "block collection", "simple key"];
    if !misplaced.iter().any(|cause| message.contains(cause)) {
        return None;
    }
    if last.key_column() == line.indent && !last.is_key() {
        return Some("put a colon and a space after the key of the line above".to_owned());
    }
    let expected = places(&above);
    (!expected.contains(&line.indent)).then(|| indentation(line.indent, &expected))
}

/// A line with content.
#[derive(Clone, Copy)]
struct Line<'t> {
    indent: usize,
    /// Without white space around it.
    content: &'t str,
}

impl<'t> Line<'t> {
    /// `None` for an empty line, a comment or a document marker.
    fn of(line: &'t str) -> Option<Line<'t>> {
        let content = line.trim();
        let counts = !content.is_empty() && !content.starts_with('#') && !line.starts_with("---");
        let indent = line.len() - line.trim_start_matches(' ').len();
        counts.then_some(Line { indent, content })
    }

    /// The columns of its dashes, and the column after them.
    fn columns(self) -> Vec<usize> {
        let mut columns = vec![self.indent];
        let mut rest = self.content;
        let mut column = self.indent;
        while let Some(after) = rest.strip_prefix("- ") {
            let item = after.trim_start_matches(' ');
            column += rest.len() - item.len();
            columns.push(column);
            rest = item;
        }
        columns
    }

    fn key_column(self) -> usize {
        self.columns().last().copied().unwrap_or(self.indent)
    }

    /// Whether it contains a key, or ends what a key began.
    fn is_key(self) -> bool {
        self.content.contains(": ") || self.content.ends_with([':', '-', ',', '[', ']', '{', '}'])
    }

    /// Whether the lines below that are indented by more are its text.
    fn begins_block(self) -> bool {
        let value = self.content.rsplit([' ']).next().unwrap_or_default();
        let sign = value.trim_end_matches(|c: char| matches!(c, '+' | '-') || c.is_ascii_digit());
        self.is_key() && matches!(sign, "|" | ">")
    }

    fn content_before(self, column: usize) -> &'t str {
        let end = self.content.char_indices().nth(column.saturating_sub(self.indent));
        self.content[..end.map_or(self.content.len(), |(i, _)| i)].trim_end()
    }
}

/// Whether a key has a value that a second colon follows. A quoted or bracketed one means something
/// else.
fn has_value(before: &str) -> bool {
    let value = before.split_once(": ").map(|(_, value)| value.trim_start());
    value.is_some_and(|value| !value.is_empty() && !value.starts_with(['\'', '"', '{', '[']))
}

/// The columns at which a line may begin below these, the last line's first.
fn places(above: &[Line<'_>]) -> Vec<usize> {
    let mut open: Vec<usize> = Vec::new();
    // The indentation of a key whose block of text has not ended.
    let mut block: Option<usize> = None;
    for line in above {
        let is_text = block.is_some_and(|indent| line.indent > indent);
        if is_text && open.last() > block.as_ref() {
            continue;
        }
        open.retain(|column| *column < line.indent);
        if is_text {
            // The first line of the text decides for the others.
            open.push(line.indent);
            continue;
        }
        open.extend(line.columns());
        block = line.begins_block().then_some(line.indent);
    }
    open.reverse();
    open
}

fn indentation(found: usize, expected: &[usize]) -> String {
    // Those next to it: the author meant one of them.
    let more = expected.iter().rfind(|column| **column > found);
    let less = expected.iter().find(|column| **column < found);
    let near: Vec<String> = less.into_iter().chain(more).map(|column| spaces(*column)).collect();
    format!("this line is indented by {}; expected: {}", spaces(found), near.join(" or "))
}

fn spaces(count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} space{plural}")
}

#[cfg(test)]
mod tests {
    use crate::tree::yaml;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let error = yaml::read(text).unwrap_err();
        let hint = super::of(text, &error.message, error.mark);
        assert_eq!(hint.as_deref(), expected, "{error:?}\n{text}");
    }

    #[test]
    fn a_wrong_indentation_is_told_with_those_that_fit() {
        let table = [
            ("a: 1\n b: 2\n", "by 1 space; expected: 0 spaces"),
            ("a:\n  b: 1\n   c: 2\n", "by 3 spaces; expected: 2 spaces"),
            ("a:\n  b: 1\n c: 2\n", "by 1 space; expected: 0 spaces or 2 spaces"),
            ("a:\n  b:\n  - c: 1\n   d: 2\n", "by 3 spaces; expected: 2 spaces or 4 spaces"),
            ("a:\n  b:\n  - c: 1\n     d: 2\n", "by 5 spaces; expected: 4 spaces"),
            ("a:\n  b: |\n    x: 1\n   c: 2\n", "by 3 spaces; expected: 2 spaces or 4 spaces"),
            (
                "a:\n  b: >-\n      x: 1\n        - y\n c: 2\n",
                "by 1 space; expected: 0 spaces or 2 spaces",
            ),
        ];
        for (text, indented) in table {
            check(text, Some(&format!("this line is indented {indented}")));
        }
    }

    #[test]
    fn other_mistakes_are_told_with_their_fix() {
        let colon = "put a colon and a space after the key of the line above";
        check("a:\n  name web\n  b: 1\n", Some(colon));
        check("a: 1\nname web\nb: 1\n", Some(colon));
        check("a: 1\nb:web\nc: 1\n", Some(colon));
        let quotes = "put the value in quotes: it contains a colon and a space";
        check("a: note: this\n", Some(quotes));
        let list = "begin the list on the next line, or write it in brackets";
        check("a: - b\n", Some(list));
        let tabs = "indent with spaces: YAML does not allow tabs here";
        check("a:\n\tb: 1\n", Some(tabs));
        let close = "close the quotation mark that begins here, or indent every line of the text \
                     by more than its key";
        check("a:\n  b: \"c\nd:\n  e: 1\n", Some(close));
    }

    #[test]
    fn what_has_several_explanations_has_no_hint() {
        for text in ["a: [b\n", "a: *x\n", "a: {b: 1\nc: 2\n", "a: 'b' c\n", "\u{0}", "a: 'b': c\n"]
        {
            check(text, None);
        }
    }
}
