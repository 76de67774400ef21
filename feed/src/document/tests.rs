//! Splitting, by tables and by properties.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(text: &str, expected: &[(&str, u32)]) {
    let found: Vec<_> = split(text, Format::Yaml).iter().map(|d| (d.text, d.lines_above)).collect();
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
        let documents = split(&text, Format::Yaml);
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
        prop_assert_eq!(split(&text, Format::Yaml).len(), count);
    }
}
