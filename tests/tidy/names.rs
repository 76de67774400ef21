//! Looks up the names of code that a page has in backticks: paths (`proxy/src/`), functions
//! (`Table::find()`), types (`ingress::route::Table`, `Snapshot`).
//!
//! A name may leave out what stands before it, but what it has must be true: `route::find()` is a
//! function of a file or folder `route`, `Table::find()` stands in a file that says
//! `impl Table`, `trait Table`, or the like.

use std::collections::BTreeMap;
use std::path::Path;

/// Spans of a page in backticks, with their line; those in fenced blocks are left out.
pub(crate) fn code_spans(page: &str) -> Vec<(usize, &str)> {
    let mut spans = Vec::new();
    let mut is_fenced = false;
    for (number, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            spans.extend(line.split('`').skip(1).step_by(2).map(|span| (number + 1, span)));
        }
    }
    spans
}

/// Whether a span is the name of something that should be there, and is not. Nothing for other
/// spans, such as flags and values.
pub(crate) fn exists(span: &str, root: &Path, sources: &BTreeMap<String, String>) -> Option<bool> {
    if span.contains([' ', '<', '=', '*']) || span.starts_with(['-', '/']) {
        return None;
    }
    if span.contains('/') {
        let path = root.join(span.trim_end_matches('/'));
        return Some(path.exists() || path.with_extension("rs").exists());
    }
    let is_function = span.ends_with("()");
    let name = span.trim_end_matches("()");
    let parts: Vec<&str> = name.split("::").collect();
    let is_word = |word: &&str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !parts.iter().all(is_word) || !is_function && parts.len() == 1 && !is_type(name) {
        return None;
    }
    let (last, before) = parts.split_last()?;
    Some(sources.iter().any(|(path, text)| {
        let mut above: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        let is_module = above.last() == Some(last) && !is_function;
        if is_module {
            above.pop();
        }
        let is_here = is_module
            || defines(text, last, is_function)
            || before
                .last()
                .is_some_and(|of| !is_function && has(text, "enum", of) && word(text, last));
        is_here && leads_here(before, &above, text)
    }))
}

/// Whether modules and types stand in this order on the way to a file and in it.
fn leads_here(before: &[&str], above: &[&str], text: &str) -> bool {
    let Some((last, rest)) = before.split_last() else { return true };
    if is_type(last) {
        let is_of_it = has_impl(text, last)
            || ["struct", "enum", "trait", "union"].iter().any(|kind| has(text, kind, last));
        return is_of_it && leads_here(rest, above, text);
    }
    above
        .iter()
        .rposition(|name| name == last)
        .is_some_and(|at| leads_here(rest, &above[..at], text))
}

fn is_type(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.contains(|c: char| c.is_lowercase())
}

fn defines(text: &str, name: &str, is_function: bool) -> bool {
    let kinds: &[&str] = match is_function {
        true => &["fn", "macro_rules!"],
        false => &["fn", "struct", "enum", "trait", "type", "const", "static", "union", "mod"],
    };
    kinds.iter().any(|kind| has(text, kind, name))
}

/// Whether a file has `kind name` outside comments.
fn has(text: &str, kind: &str, name: &str) -> bool {
    let lines = text.lines().filter(|line| line.contains(name));
    lines.filter_map(|line| line.split("//").next()).any(|code| {
        let words: Vec<&str> = code.split_whitespace().collect();
        words.windows(2).any(|pair| pair[0] == kind && first_word(pair[1]) == name)
    })
}

fn has_impl(text: &str, name: &str) -> bool {
    text.lines().filter(|line| line.trim_start().starts_with("impl")).any(|line| word(line, name))
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn word(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
}

#[test]
fn a_name_is_found_only_where_it_is() {
    let file = "pub struct Table;\nimpl Table {\n    pub fn find(&self) {}\n}\nenum Way { Back }\n";
    let sources = BTreeMap::from([("ingress/src/route.rs".to_owned(), file.to_owned())]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found =
        ["Table", "Table::find()", "route::Table::find()", "ingress::route::Table", "find()"];
    for name in found.iter().chain(&["ingress::route", "Way::Back", "tests/", "Cargo.toml/"]) {
        assert_eq!(exists(name, root, &sources), Some(true), "{name}");
    }
    let lost =
        ["Other", "Table::lose()", "proxy::route::Table", "Way::Forth", "lose()", "gone/away"];
    for name in lost {
        assert_eq!(exists(name, root, &sources), Some(false), "{name}");
    }
    for name in ["--flag", "a word", "127.0.0.1", "up", "x=y", "/status"] {
        assert_eq!(exists(name, root, &sources), None, "{name}");
    }
    assert_eq!(code_spans("a `b` c\n```\n`d`\n```\n`e` `f`"), [(1, "b"), (5, "e"), (5, "f")]);
}
