//! What is fuzzed in this package: one function for each parser, which takes any bytes and checks
//! what must hold for every outcome.
//!
//! Called by the targets under `fuzz/` and, for a bounded number of inputs, by `tests/fuzz.rs`.
//! Not part of this package's interface.

use crate::document::{self, Format, MAX_DOCUMENTS};
use crate::manifest::{self, Keep, Outcome, Reading};
use crate::tree::{self, MAX_NODES, SyntaxError, Tree};
use crate::validate::Interner;

/// YAML text → tree.
pub fn yaml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check_tree(text, tree::yaml::read(text));
    }
}

/// JSON text → tree: it accepts exactly what `serde_json` accepts, within the limits.
pub fn json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = tree::json::read(text);
    if matches!(read, Ok(Some(_))) {
        let other = serde_json::from_str::<serde::de::IgnoredAny>(text);
        assert!(other.is_ok(), "accepted, and another parser says {other:?}");
    }
    check_tree(text, read);
}

fn check_tree(text: &str, read: Result<Option<Tree<'_>>, SyntaxError>) {
    let lines = text.split(['\n', '\r']).count() as u32;
    let tree = match read {
        Ok(Some(tree)) => tree,
        Ok(None) => return,
        Err(error) => {
            assert!(!error.message.is_empty());
            assert!(error.mark.line <= lines + 1, "{error:?} of {lines} lines");
            return;
        }
    };
    let mut waiting = vec![tree.root()];
    let mut nodes = 0;
    while let Some(id) = waiting.pop() {
        nodes += 1;
        assert!(nodes <= MAX_NODES, "more nodes than are allowed");
        assert!(tree.node(id).mark.line <= lines + 1, "a node behind the text");
        waiting.extend(tree.elements(id));
        waiting.extend(tree.entries(id).flat_map(|(key, value)| [key, value]));
    }
}

/// A file's text → documents → objects, as YAML and as JSON.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [Format::Yaml, Format::Json] {
        let parts = document::split(text, format);
        assert!(parts.len() <= MAX_DOCUMENTS + 2, "{} documents", parts.len());
        for part in &parts {
            read_part(text, part, format);
            let items = if format == Format::Yaml { document::items(part) } else { None };
            for item in items.iter().flatten() {
                read_part(text, item, format);
            }
        }
    }
}

fn read_part(text: &str, part: &document::Document<'_>, format: Format) {
    let lines = text.split(['\n', '\r']).count() as u32;
    for reading in manifest::read(text, part, format, Keep::Whole, &mut Interner::default()) {
        let is_bad = reading.outcome == Outcome::Bad;
        assert!(!is_bad || !reading.problems.is_empty(), "rejected without a reason");
        for problem in &reading.problems {
            assert!(!problem.message.is_empty() && !problem.message.contains('\n'), "{problem:?}");
            assert!(problem.mark.line <= lines + 1, "{problem:?} of {lines} lines");
        }
        check_whole(&reading);
    }
    manifest::each_object(part, format, |_, locate| {
        let _ = locate(&[]);
    });
}

/// The whole object that is kept for a valid one is JSON, and reads as the same object.
fn check_whole(reading: &Reading) {
    let Some(whole) = &reading.whole else { return };
    let part = document::Document {
        text: whole,
        lines_above: 0,
        columns_before: 0,
        shape: document::Shape::Whole,
    };
    let again = manifest::read(whole, &part, Format::Json, Keep::Parts, &mut Interner::default());
    assert_eq!(again.len(), 1, "{whole}");
    assert_eq!(again[0].key, reading.key, "{whole}");
    assert_eq!(again[0].outcome, reading.outcome, "{whole}");
}
