//! Splits a `v1` List, as `kubectl get -o yaml` writes it, into its items.
//!
//! Such a document may contain all objects of a cluster. Parsed item by item it takes little
//! memory, a broken item does not affect the others, and only items that changed are parsed again.
//! The text is split by lines where this is certainly correct: in block style a line that begins
//! with `-` at the column of the first item begins an item, because all that belongs to an item is
//! indented more. Any other document stays whole.

use super::part::{Document, MAX_DOCUMENTS, Shape};

/// The items of a list in block style; `None` when the document is anything else.
pub(super) fn items<'t>(document: &Document<'t>) -> Option<Vec<Document<'t>>> {
    // A List is larger than this; most documents are not a List.
    const SMALLEST: usize = 40;
    let text = document.text;
    if text.len() < SMALLEST || !has_items(text) {
        return None;
    }
    let mut list = List { text, lines_above: document.lines_above, ..List::default() };
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if list.items.len() > MAX_DOCUMENTS {
            break;
        }
        list.line(number as u32, offset, line)?;
        offset += line.len();
    }
    list.end(offset);
    (list.is_list && list.is_v1 && !list.items.is_empty()).then_some(list.items)
}

/// Whether some line of the text is `items:`, apart from white space at its end.
fn has_items(text: &str) -> bool {
    const ITEMS: &str = "items:";
    memchr::memmem::find_iter(text.as_bytes(), ITEMS).any(|at| {
        let begins = at == 0 || text.as_bytes()[at - 1] == b'\n';
        let rest = text[at + ITEMS.len()..].split('\n').next().unwrap_or_default();
        begins && rest.trim().is_empty()
    })
}

#[derive(Default)]
struct List<'t> {
    text: &'t str,
    lines_above: u32,
    is_list: bool,
    is_v1: bool,
    in_items: bool,
    /// The column of the dashes.
    column: Option<usize>,
    /// Where the item that is open began: offset and line.
    open: Option<(usize, u32)>,
    items: Vec<Document<'t>>,
}

impl List<'_> {
    /// Takes the next line; `None` when the document is not of the simple kind.
    fn line(&mut self, number: u32, offset: usize, line: &str) -> Option<()> {
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let content = content.trim_end();
        if content.is_empty() || content.starts_with('#') {
            return Some(());
        }
        if self.in_items {
            let column = *self.column.get_or_insert(indent);
            let dash = content == "-" || content.starts_with("- ");
            match indent.cmp(&column) {
                std::cmp::Ordering::Greater => return self.open.map(|_| ()),
                std::cmp::Ordering::Equal if dash => {
                    self.end(offset);
                    self.open = Some((offset, number));
                    return Some(());
                }
                _ => {
                    self.end(offset);
                    self.in_items = false;
                }
            }
        }
        self.top_level(indent, content)
    }

    /// A line of the List itself.
    fn top_level(&mut self, indent: usize, content: &str) -> Option<()> {
        match content {
            _ if indent > 0 => {}
            "items:" if self.column.is_none() => self.in_items = true,
            "kind: List" => self.is_list = true,
            "apiVersion: v1" => self.is_v1 = true,
            "---" | "metadata:" => {}
            _ if content.starts_with("metadata: {") && content.ends_with('}') => {}
            _ => return None,
        }
        // Below `metadata:`, only the lines that `kubectl` writes.
        let below = ["resourceVersion:", "selfLink:", "continue:", "remainingItemCount:"];
        (indent == 0 || below.iter().any(|key| content.starts_with(key))).then_some(())
    }

    fn end(&mut self, offset: usize) {
        if let Some((start, line)) = self.open.take() {
            self.items.push(Document {
                text: &self.text[start..offset],
                lines_above: self.lines_above + line,
                columns_before: 0,
                shape: Shape::Item,
            });
        }
    }
}
