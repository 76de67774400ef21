//! YAML and JSON as trees with places, and how strictly they are decoded.

use super::decode::{Finding, Scalar, decode, resolve};
use super::*;
use std::fmt::Write as _;

/// A tree in one line, each scalar with its place (`line:column`, from 0).
fn print(tree: &Tree<'_>, id: NodeId) -> String {
    let node = tree.node(id);
    let place = |text: &str| format!("{text}@{}:{}", node.mark.line, node.mark.column);
    match &node.value {
        Value::Plain(text) => place(text),
        Value::Quoted(text) => place(&format!("{text:?}")),
        Value::Sequence(_) => {
            let elements: Vec<_> = tree.elements(id).iter().map(|id| print(tree, *id)).collect();
            format!("[{}]", elements.join(" "))
        }
        Value::Mapping(_) => {
            let entry = |(key, value)| format!("{}={}", print(tree, key), print(tree, value));
            let entries: Vec<_> = tree.entries(id).map(entry).collect();
            format!("{{{}}}", entries.join(" "))
        }
    }
}

type Reader = fn(&str) -> Result<Option<Tree<'_>>, SyntaxError>;

#[track_caller]
fn check(read: Reader, text: &str, expected: &str) {
    let found = match read(text) {
        Ok(Some(tree)) => print(&tree, tree.root()),
        Ok(None) => "nothing".to_owned(),
        Err(e) => format!("{}:{}: {}", e.mark.line, e.mark.column, e.message),
    };
    assert_eq!(found, expected, "{text}");
}

#[test]
fn yaml_becomes_a_tree_with_places() {
    let check = |text, expected| check(yaml::read, text, expected);
    check("", "nothing");
    check("# nothing\n", "nothing");
    check("a: 1\nb:\n- x\n- 'y'\n", "{a@0:0=1@0:3 b@1:0=[x@2:2 \"y\"@3:2]}");
    check("--- {a: [1, 2]}\n", "{a@0:5=[1@0:9 2@0:12]}");
    check("a: |\n  x\n  y\n", "{a@0:0=\"x\\ny\\n\"@1:2}");
    check("a: !!str 1\n", "{a@0:0=\"1\"@0:3}");
    check("ä: ü\n", "{ä@0:0=ü@0:3}");
    check("a: !include x\n", "0:3: this tag is not supported; quote text that starts with `!`");
    check("a: 1\n b: 2\n", "1:2: not valid YAML: mapping values are not allowed in this context");
    check("a: &x 1\nb: *x\n", "{a@0:0=1@0:3 b@1:0=1@0:3}");
    check("a: *x\n", "0:3: not valid YAML: while parsing node, found unknown anchor");
    check("a: &x [*x]\n", "0:7: an alias inside the node that it refers to");
}

/// Merging the largest allowed number of keys took more than a minute of CPU time, because it grew
/// with the square of their number. Now it takes less than a second.
#[test]
fn merging_many_keys_takes_time_in_proportion() {
    const KEYS: usize = 60_000;
    let mut text = "base: &base\n".to_owned();
    (0..KEYS).for_each(|n| writeln!(text, "  key-{n}: v").unwrap());
    text.push_str("all:\n  <<: *base\n");
    (0..KEYS / 4).for_each(|n| writeln!(text, "  other-{n}: v").unwrap());
    let begun = std::time::Instant::now();
    let tree = yaml::read(&text).unwrap().unwrap();
    let all = tree.field(tree.root(), "all").unwrap();
    assert_eq!(tree.entries(all).count(), KEYS + KEYS / 4);
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

/// Each time that a base is merged, its entries count towards the document's limit.
#[test]
fn merging_is_bounded() {
    let mut text = "base: &base\n".to_owned();
    (0..20_000).for_each(|n| writeln!(text, "  key-{n}: v").unwrap());
    (0..200).for_each(|n| writeln!(text, "m{n}: {{<<: *base}}").unwrap());
    let error = yaml::read(&text).unwrap_err();
    assert!(error.message.contains("nodes, aliases expanded: split the file"), "{error:?}");
}

#[test]
fn merge_keys_fill_in_what_is_not_set() {
    let check = |text, expected| check(yaml::read, text, expected);
    check(
        "- &x {a: 1, b: 2}\n- {<<: *x, b: 3}\n",
        "[{a@0:6=1@0:9 b@0:12=2@0:15} {b@1:11=3@1:14 a@0:6=1@0:9}]",
    );
    check(
        "- &x {a: 1}\n- &y {a: 2, b: 3}\n- {<<: [*x, *y]}\n",
        "[{a@0:6=1@0:9} {a@1:6=2@1:9 b@1:12=3@1:15} {a@0:6=1@0:9 b@1:12=3@1:15}]",
    );
    check("'<<': 1\n", "{\"<<\"@0:0=1@0:6}");
    check("<<: 1\n", "0:4: the value of `<<` must be a mapping or a list of mappings");
}

#[test]
fn json_becomes_a_tree_with_places() {
    let check = |text, expected| check(json::read, text, expected);
    check("  ", "nothing");
    check(
        "{\"a\": 1,\n \"b\": [true, null, -1.5e3]}",
        "{\"a\"@0:1=1@0:6 \"b\"@1:1=[true@1:7 null@1:13 -1.5e3@1:19]}",
    );
    check("\"\\u00e4\\ud83d\\ude00\\/\"", "\"ä😀/\"@0:0");
    check("{}", "{}");
    check("[ ]", "[]");
    check("{\"a\" 1}", "0:5: not valid JSON: expected `:`");
    check("[1 2]", "0:3: not valid JSON: expected `,` or `]`");
    check("[1,]", "0:3: not valid JSON: expected a value");
    check("{'a': 1}", "0:1: not valid JSON: expected a key in quotes");
    check("\"\\x\"", "0:0: not valid JSON: an invalid escape in this string");
    check("\"\\ud800\"", "0:0: not valid JSON: an invalid escape in this string");
    check("\"a\nb\"", "0:2: not valid JSON: a control character in a string must be escaped");
    check("[01]", "0:1: not valid JSON: expected a value");
    check("[tru]", "0:1: not valid JSON: expected a value");
    check("\"abc", "0:4: not valid JSON: unexpected end of the text inside a string");
    check("\"abc\\", "0:5: not valid JSON: unexpected end of the text inside a string");
    check("1 2", "0:2: not valid JSON: unexpected text after the value");
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let deep = |open: &str, close: &str, levels: usize| open.repeat(levels) + &close.repeat(levels);
    assert!(yaml::read(&deep("[", "]", MAX_DEPTH)).is_ok());
    let message = |result: Result<Option<Tree<'_>>, SyntaxError>| result.unwrap_err().message;
    let nested = format!("nested deeper than {MAX_DEPTH} levels");
    // The parser has a limit of its own for brackets, which it looks ahead over.
    let limited = |text: &str| {
        let message = message(yaml::read(text));
        message.contains(&nested) || message.contains("recursion limit exceeded")
    };
    assert!(limited(&"[".repeat(200_000)));
    assert!(limited(&"{a: ".repeat(200_000)));
    assert!(message(yaml::read(&"- ".repeat(200_000))).contains(&nested));
    assert!(message(json::read(&"[".repeat(200_000))).contains(&nested));
    // A flow collection is held as tokens until it ends.
    let wide = format!("[{}]", "x,".repeat(300_000));
    assert!(message(yaml::read(&wide)).contains("use block style"));
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        let aliases = vec![format!("*{from}"); 10].join(", ");
        bomb += &format!("{to}: &{to} [{aliases}]\n");
    }
    assert!(message(yaml::read(&bomb)).contains("aliases expanded"));
    // Few nodes, but a long text in each.
    let long = format!("a: &a {}\nb:\n{}", "x".repeat(100_000), "- *a\n".repeat(1000));
    assert!(message(yaml::read(&long)).contains("ten times the text"));
    let shared = format!("a: &a {}\nb:\n{}", "x".repeat(1000), "- *a\n".repeat(20));
    assert!(yaml::read(&shared).is_ok());
}

#[test]
fn plain_scalars_mean_what_they_mean_to_kubectl() {
    for (text, expected) in [
        ("", Scalar::Null),
        ("~", Scalar::Null),
        ("null", Scalar::Null),
        ("nul", Scalar::Text),
        ("true", Scalar::Bool(true)),
        ("False", Scalar::Bool(false)),
        ("yes", Scalar::Text),
        ("80", Scalar::Int(80)),
        ("-1", Scalar::Int(-1)),
        ("+1", Scalar::Int(1)),
        ("0x1f", Scalar::Int(31)),
        ("010", Scalar::Int(8)),
        ("0o10", Scalar::Int(8)),
        ("0b11", Scalar::Int(3)),
        ("1_000", Scalar::Int(1000)),
        ("0", Scalar::Int(0)),
        ("080", Scalar::Float),
        ("1.5", Scalar::Float),
        ("1e3", Scalar::Float),
        (".5", Scalar::Float),
        (".inf", Scalar::Float),
        ("99999999999999999999", Scalar::Float),
        ("1.2.3.4", Scalar::Text),
        ("10.0.0.0/8", Scalar::Text),
        ("-", Scalar::Text),
        ("0x", Scalar::Text),
        ("12:30", Scalar::Text),
        ("2026-11-20T08:04:31Z", Scalar::Text),
    ] {
        assert_eq!(resolve(text), expected, "{text:?}");
    }
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Sample {
    some_name: Option<String>,
    count: Option<i64>,
    flag: Option<bool>,
    list: Option<Vec<Sample>>,
}

fn findings(text: &str) -> Vec<String> {
    let tree = yaml::read(text).unwrap().unwrap();
    let described = |finding: Finding| {
        let node = finding.node.unwrap_or(tree.root());
        let path = tree.path_to(tree.root(), node).unwrap_or_default();
        let mark = tree.node(node).mark;
        format!("{}:{} {}: {finding}", mark.line, mark.column, Path(&path))
    };
    match decode::<Sample>(&tree, tree.root()) {
        Ok(sample) => vec![format!("{sample:?}")],
        Err(findings) => findings.into_iter().map(described).collect(),
    }
}

#[test]
fn decoding_is_strict_and_says_where() {
    assert_eq!(findings("someName: a\ncount: null\nlist:\n- count: 1\n-\n").len(), 1);
    assert_eq!(
        findings("list:\n- count: 1\n- somename: x\n"),
        ["2:2 list[1].somename: unknown field"]
    );
    assert_eq!(
        findings("list:\n- count: x\n"),
        ["1:9 list[0].count: expected a whole number, found a string"]
    );
    assert_eq!(findings("flag: on\n").len(), 1);
    assert_eq!(findings("flag: 1\n"), ["0:6 flag: expected true or false, found a number"]);
    assert_eq!(findings("someName: [a]\n"), ["0:10 someName: expected a string, found a list"]);
    assert_eq!(findings("[a]: b\n"), ["0:0 : a key must be a string"]);
}

#[test]
fn a_path_leads_to_its_field_or_to_what_is_above_it() {
    let tree = yaml::read("spec:\n  ports:\n  - port: 1\n    name:\n").unwrap().unwrap();
    let place = |path: &[Step]| {
        let mark = tree.locate(tree.root(), path);
        (mark.line, mark.column)
    };
    let key = |key: &str| Step::Key(key.to_owned());
    let ports = [key("spec"), key("ports"), Step::Index(0)];
    assert_eq!(place(&[]), (0, 0));
    assert_eq!(place(&ports[..2]), (1, 2), "a collection is shown at its key");
    assert_eq!(place(&ports), (2, 4));
    let field = |name: &str| ports.iter().cloned().chain([key(name)]).collect::<Vec<_>>();
    assert_eq!(place(&field("port")), (2, 10), "a scalar at itself");
    assert_eq!(place(&field("name")), (3, 4), "null at its key");
    assert_eq!(place(&field("protocol")), (2, 4), "what is missing at its parent");
}
