//! docs/limits.md, compared with the help texts of the command line.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::{help_of, root};

/// The flags of a command, with their defaults if the help has one.
fn flags(command: &str) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    let mut name = None;
    let mut about = String::new();
    // Each flag begins a line, and its text may continue on the next lines.
    for line in help_of(command).lines().chain(["      --end"]) {
        let Some(flag) = line.strip_prefix("      --") else {
            about += &format!("{} ", line.trim());
            continue;
        };
        let value = about.split_once("[default: ").and_then(|(_, rest)| rest.split(']').next());
        if let Some(name) = name {
            found.insert(format!("--{name}"), value.map(|value: &str| value.trim().to_owned()));
        }
        let (begin, rest) = flag.split_once(' ').unwrap_or((flag, ""));
        name = Some(begin);
        about = format!("{} ", rest.trim());
    }
    assert!(found.len() > 3, "{command}: {found:?}");
    found
}

/// The rows of a section: flag, and default if it is a value.
fn rows(page: &str, section: &str) -> BTreeMap<String, Option<String>> {
    let (_, text) = page.split_once(&format!("## {section}\n")).unwrap();
    let text = text.split("\n## ").next().unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `--"));
    let cell = |line: &str, number: usize| line.split('|').nth(number).unwrap().trim().to_owned();
    rows.map(|line| {
        let default = cell(line, 2);
        let value = default.strip_prefix('`').map(|value| value.trim_end_matches('`').to_owned());
        (cell(line, 1).trim_matches('`').to_owned(), value)
    })
    .collect()
}

/// The flags of the processes that `up` starts.
static OTHERS: LazyLock<BTreeMap<String, Option<String>>> =
    LazyLock::new(|| ["proxy", "ingress", "dns", "feed"].into_iter().flat_map(flags).collect());

#[test]
fn the_page_has_every_limit_with_its_default() {
    let page = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let sections = ["proxy", "ingress", "dns", "feed", "up"].map(|name| (name, name));
    for (section, command) in
        sections.into_iter().chain([("Processes that follow a feed", "proxy")])
    {
        let (flags, rows) = (flags(command), rows(&page, section));
        for (flag, default) in &rows {
            assert_eq!(flags.get(flag), Some(default), "{section}: {flag}");
        }
        let is_limit = |flag: &str| flag.starts_with("--max-") || flag.ends_with("-timeout");
        // `up` passes the flags of others on.
        let of_others = |flag: &str| command == "up" && OTHERS.contains_key(flag);
        let flags = flags.keys().filter(|flag| is_limit(flag) && !of_others(flag));
        let missing: Vec<_> = flags.filter(|flag| !rows.contains_key(*flag)).collect();
        assert!(missing.is_empty() || section != command, "{section}: {missing:?}");
    }
}
