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
    /// The documents are in the order of the text, with nothing but comments between them.
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

    /// A document is found unchanged next to any other text.
    #[test]
    fn joined_documents_split_again(count in 1usize..50) {
        let text: String = (0..count).map(|i| format!("---\nn: {i}\n")).collect();
        prop_assert_eq!(split(&text, Format::Yaml).len(), count);
    }
}

/// The items of the only document of a text, with their lines.
fn items_of(text: &str) -> Option<Vec<(&str, u32)>> {
    let documents = split(text, Format::Yaml);
    assert_eq!(documents.len(), 1, "{text:?}");
    let items = items(&documents[0])?;
    Some(items.iter().map(|item| (item.text, item.lines_above)).collect())
}

#[test]
fn a_list_is_split_into_its_items() {
    assert_eq!(
        items_of("apiVersion: v1\nitems:\n- a: 1\n  b: 2\n\n# c\n- d: |\n    - e\nkind: List\n"),
        Some(vec![("- a: 1\n  b: 2\n\n# c\n", 2), ("- d: |\n    - e\n", 6)])
    );
    assert_eq!(
        items_of(
            "---\nkind: List\napiVersion: v1\nmetadata:\n  resourceVersion: ''\nitems:\n  \
             - a: 1\n  - b\n",
        ),
        Some(vec![("  - a: 1\n", 6), ("  - b\n", 7)])
    );
    assert_eq!(
        items_of("apiVersion: v1\r\nitems:\r\n- a: 1\r\n- b: 2\r\nkind: List\r\nmetadata: {}\r\n"),
        Some(vec![("- a: 1\r\n", 2), ("- b: 2\r\n", 3)])
    );
}

#[test]
fn what_is_not_plainly_a_list_stays_whole() {
    for text in [
        "kind: Service\napiVersion: v1\nspec:\n  ports:\n  - port: 80\n",
        "apiVersion: v1\nkind: List\nitems: []\nmetadata: {resourceVersion: ''}\n",
        "apiVersion: v1\nkind: ServiceList\nitems:\n- a: 1\n- b: 2\n# long enough\n",
        "apiVersion: x/v1\nkind: List\nitems:\n- a: 1\n- b: 2\n# long enough\n",
        "apiVersion: v1\nkind: List\nitems:\n- a: 1\n- b: 2\nmore: things\n",
        "apiVersion: v1\nkind: List\nitems: &all\n- a: 1\n- b: 2\n# long enough\n",
        "apiVersion: v1\nkind: List\nitems:\n  a: 1\n  b: 2\n# long enough\n",
        "apiVersion: v1\nkind: List\nx: |\n  a\n  b\nitems:\n- a: 1\n- b: 2\n",
    ] {
        assert_eq!(items_of(text), None, "{text}");
    }
}

#[test]
fn json_is_split_into_values_and_lists_into_items() {
    let found = |text| {
        let documents = split(text, Format::Json);
        let found = documents.iter().map(|d| (d.text, d.lines_above, d.columns_before));
        found.collect::<Vec<_>>()
    };
    assert_eq!(found(""), []);
    assert_eq!(found(" {\"a\": [1, {}]}\n{} "), [("{\"a\": [1, {}]}", 0, 1), ("{}", 1, 0)]);
    assert_eq!(
        found("{\"kind\":\"List\",\n\"apiVersion\":\"v1\",\"items\":[{\"ä\": 1}, {\"}\": 2}]}"),
        [("{\"ä\": 1}", 1, 27), ("{\"}\": 2}", 1, 37)]
    );
    // Not a list, or not JSON: the parser sees all of it.
    for text in [
        "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[]}",
        "{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"items\":[{}]}",
        "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[{},]}",
        "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[{}]",
        "{\"kind\":\"List\" \"apiVersion\":\"v1\",\"items\":[{}]}",
        "{\"a\": ]}",
        "\"",
    ] {
        assert_eq!(found(text), [(text, 0, 0)], "{text}");
    }
    let documents = split("# c\n--- {\"kind\":\"List\"}\n", Format::Yaml);
    assert_eq!(items(&documents[0]), None);
    let text = "{\"kind\":\"List\",\"apiVersion\":\"v1\",\"items\":[\n {},\n {}]}\n";
    assert_eq!(items_of(text), Some(vec![("{}", 1), ("{}", 2)]));
}

proptest! {
    /// For any bytes, splitting neither panics nor returns wrong positions.
    #[test]
    fn any_text_can_be_split(text in "[-.{}\\[\\]\":,\n a#%|&*]{0,80}") {
        for format in [Format::Yaml, Format::Json] {
            for document in split(&text, format) {
                let start = document.text.as_ptr() as usize - text.as_ptr() as usize;
                let lines = text[..start].matches('\n').count() as u32;
                prop_assert_eq!(lines, document.lines_above);
                for item in items(&document).unwrap_or_default() {
                    let start = item.text.as_ptr() as usize - text.as_ptr() as usize;
                    let lines = text[..start].matches('\n').count() as u32;
                    prop_assert_eq!(lines, item.lines_above);
                }
            }
        }
    }
}
