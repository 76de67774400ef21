//! Checks the rules of this repository that a compiler does not check: which package may depend on
//! which, that files of a package use each other in one direction, which modules are pure, where
//! `unsafe` may stand, how files look, and that ARCHITECTURE.md names what exists.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and end")]

#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/names.rs"]
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use graph::Graph;

/// Which of our packages each may depend on.
const MAY_DEPEND_ON: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("balance", &[]),
    ("daemon", &[]),
    ("feed", &["model", "daemon"]),
    ("apiserver", &["model", "feed", "daemon"]),
    ("proxy", &["model", "balance", "feed", "daemon"]),
    ("ingress", &["model", "balance", "feed", "daemon"]),
    ("dns", &["model", "feed", "daemon"]),
    ("switchyard", &["model", "feed", "apiserver", "daemon", "proxy", "ingress", "dns"]),
];

/// Pure modules, which contain semantics and do no I/O; including all files below a folder of that
/// name.
const PURE: &[&str] = &[
    "apiserver/src/assemble",
    "apiserver/src/derived",
    "apiserver/src/discovery",
    "apiserver/src/dry_run",
    "apiserver/src/entry",
    "apiserver/src/history",
    "apiserver/src/list",
    "apiserver/src/openapi",
    "apiserver/src/query",
    "apiserver/src/review",
    "apiserver/src/route",
    "apiserver/src/selector",
    "apiserver/src/status",
    "apiserver/src/text",
    "apiserver/src/values",
    "apiserver/src/view",
    "apiserver/src/write",
    "balance/src",
    "dns/src/answered_by",
    "dns/src/budget",
    "dns/src/cache",
    "dns/src/cache_report",
    "dns/src/cookies",
    "dns/src/forward/decide",
    "dns/src/forward/packet",
    "dns/src/forward/plan",
    "dns/src/forward/question",
    "dns/src/forward/rebuild",
    "dns/src/forward/routes",
    "dns/src/forward/server",
    "dns/src/https/message",
    "dns/src/local",
    "dns/src/rate",
    "dns/src/record_text",
    "dns/src/respond",
    "dns/src/wire",
    "dns/src/zone",
    "feed/src/client/beginning",
    "feed/src/client/cut",
    "feed/src/client/decode",
    "feed/src/client/envelope",
    "feed/src/client/lines",
    "feed/src/client/machine",
    "feed/src/client/manner",
    "feed/src/client/page",
    "feed/src/client/session",
    "feed/src/client/weight",
    "feed/src/folder/catalogue",
    "feed/src/hosts/table",
    "ingress/src/access_log/format",
    "ingress/src/addresses",
    "ingress/src/basic",
    "ingress/src/distinguished_name",
    "ingress/src/exchange/attempts",
    "ingress/src/head",
    "ingress/src/http2_error",
    "ingress/src/interim",
    "ingress/src/origin",
    "ingress/src/pattern",
    "ingress/src/reason",
    "ingress/src/request",
    "ingress/src/route",
    "ingress/src/serve/frames",
    "ingress/src/snapshot",
    "ingress/src/template",
    "ingress/src/trace/context",
    "ingress/src/trace/span",
    "ingress/src/upstream/codec",
    "ingress/src/upstream/encode",
    "ingress/src/upstream/encode_http2",
    "ingress/src/websocket",
    "ingress/src/wire",
    "model/src",
    "proxy/src/annotations",
    "proxy/src/datapath/userspace/client_shares",
    "proxy/src/datapath/userspace/session_shares",
    "proxy/src/resolver",
    "proxy/src/snapshot",
];

/// The largest share of all Rust code without tests that one package may have.
const LARGEST_SHARE: f64 = 1.0 / 3.0;

/// What a pure module may not name: sockets, files, clocks, threads and runtimes.
const IMPURE: &[&str] = &[
    "tokio::",
    "hyper::",
    "socket2::",
    "rustix::",
    "nix::",
    "std::fs",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "std::env::args",
    "std::env::current",
    "std::env::var",
];

/// `unsafe` is allowed only in files with one of these words in their name.
const MAY_BE_UNSAFE: [&str; 4] = ["mmsg", "splice", "netlink", "ebpf"];

const VAGUE_NAMES: [&str; 5] = ["mod", "util", "common", "helpers", "misc"];

const LINE_COLUMNS: usize = 100;
const FUNCTION_LINES: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "out" {
                files_below(&path, wanted, found);
            }
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

/// Every Rust file of the workspace: path from the root, and text.
fn sources() -> BTreeMap<String, String> {
    let mut found = Vec::new();
    files_below(root(), &|path| path.extension().is_some_and(|e| e == "rs"), &mut found);
    let relative = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    let sources: BTreeMap<_, _> =
        found.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect();
    assert!(sources.len() > 30, "the walk found too little: {:?}", sources.keys());
    sources
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn packages_depend_only_downwards() {
    let manifest = root().join("Cargo.toml");
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap();
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.into_iter().collect();
    assert_eq!(metadata.packages.len(), allowed.len(), "a package without a rule");
    for package in &metadata.packages {
        let name = package.name.as_str();
        for dependency in &package.dependencies {
            let ours = allowed.contains_key(dependency.name.as_str());
            let may = allowed[name].contains(&dependency.name.as_str());
            assert!(!ours || may, "{name} must not depend on {}", dependency.name);
        }
    }
}

#[test]
fn files_of_a_package_use_only_what_stands_below() {
    let sources = sources();
    let mut found = Vec::new();
    for (package, _) in MAY_DEPEND_ON {
        let source =
            if package == "switchyard" { "src/".into() } else { format!("{package}/src/") };
        let files = sources.iter().filter(|(path, _)| path.starts_with(&source) && !is_test(path));
        let files = files.map(|(path, text)| (path.as_str(), text.as_str()));
        found.extend(Graph::new(&source, files).circles());
    }
    assert_none("files which use each other", &found);
}

#[test]
fn pure_modules_touch_nothing() {
    let sources = sources();
    let mut found = Vec::new();
    for pure in PURE {
        let (file, folder) = (format!("{pure}.rs"), format!("{pure}/"));
        let mut seen = false;
        for (path, text) in &sources {
            if *path != file && !path.starts_with(&folder) || is_test(path) {
                continue;
            }
            seen = true;
            for (number, line) in without_tests(text).lines().enumerate() {
                let code = line.split("//").next().unwrap();
                let impure = IMPURE.iter().filter(|word| code.contains(**word));
                found.extend(impure.map(|word| format!("{path}:{}: {word}", number + 1)));
            }
        }
        assert!(seen, "{pure} is listed as pure and is not there");
    }
    assert_none("impure", &found);
}

/// `dist` inherits the packages of `release`, and with them levels that only make building quick.
#[test]
fn the_dist_profile_is_optimised_where_release_is_not() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let packages = |profile: &str| {
        let heading = format!("[profile.{profile}.package]");
        let lines = manifest.lines().skip_while(move |line| *line != heading).skip(1);
        let lines: Vec<&str> = lines.take_while(|line| !line.starts_with('[')).collect();
        lines.into_iter().filter_map(|line| line.split_once(" = ")).collect::<BTreeMap<_, _>>()
    };
    let (release, dist) = (packages("release"), packages("dist"));
    assert!(release.contains_key("ingress") && dist.contains_key("proxy"));
    let lower = release.iter().filter(|(_, level)| **level != "{ opt-level = 3 }");
    let inherited: Vec<_> = lower.filter(|(name, _)| !dist.contains_key(*name)).collect();
    assert!(inherited.is_empty(), "not in [profile.dist.package]: {inherited:?}");
}

#[test]
fn files_that_call_themselves_pure_are_listed() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let head = text.lines().take_while(|line| line.starts_with("//!"));
        let is_pure = head.flat_map(|line| line.split(|c: char| !c.is_alphanumeric()));
        let listed = PURE.iter().any(|pure| {
            path.strip_prefix(pure).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        if is_pure.into_iter().any(|word| word == "Pure") && !listed && !is_test(&path) {
            found.push(path);
        }
    }
    assert_none("files that call themselves pure and are not listed in PURE", &found);
}

/// A package that contains most of the code should be split.
#[test]
fn no_package_is_most_of_the_code() {
    let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
    let sources = sources();
    for (path, text) in sources.iter().filter(|(path, _)| !is_test(path)) {
        let package = path.split_once("/src/").map_or("switchyard", |(package, _)| package);
        *lines.entry(package).or_default() += without_tests(text).lines().count();
    }
    let all: usize = lines.values().sum();
    let limit = all as f64 * LARGEST_SHARE;
    let too_large = |(name, lines): (&str, usize)| {
        (lines as f64 > limit).then(|| format!("{name}: {lines} of {all} lines"))
    };
    let found: Vec<_> = lines.into_iter().filter_map(too_large).collect();
    assert_none("packages with more than a third of the code", &found);
}

#[test]
fn unsafe_stands_only_where_it_must_and_says_why() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let may = MAY_BE_UNSAFE.iter().any(|name| path.contains(name));
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            let above = lines[number.saturating_sub(6)..number].iter().rev();
            let explained = above
                .take_while(|l| l.trim().starts_with("//") || !l.ends_with(';'))
                .any(|l| l.contains("// SAFETY:"));
            if path != "tests/tidy.rs" && !(may && explained) {
                found.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none("unsafe outside its files, or without SAFETY", &found);
}

#[test]
fn files_are_named_and_introduced() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let stem = Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
        if VAGUE_NAMES.contains(&stem.as_str()) {
            found.push(format!("{path}: a name that says nothing"));
        }
        if !text.starts_with("//! ") {
            found.push(format!("{path}: no //! that says what it is for"));
        }
    }
    assert_none("files", &found);
}

#[test]
fn lines_and_functions_fit_a_screen() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_COLUMNS {
                found.push(format!("{path}:{}: more than {LINE_COLUMNS} columns", number + 1));
            }
        }
        if !is_test(&path) {
            found.extend(long_functions(without_tests(&text)).map(|at| format!("{path}:{at}")));
        }
    }
    assert_none("too long", &found);
}

/// Functions of more than [`FUNCTION_LINES`] lines; rustfmt's indentation finds their end.
fn long_functions(text: &str) -> impl Iterator<Item = String> + '_ {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|at| begins_function(lines[*at])).collect();
    starts.into_iter().filter_map(move |start| {
        let indent = lines[start].len() - lines[start].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == end)? + 1;
        (length > FUNCTION_LINES).then(|| format!("{}: {length} lines", start + 1))
    })
}

/// Whether a line begins a function, with any visibility and any qualifiers.
fn begins_function(line: &str) -> bool {
    let mut code = line.trim_start();
    if let Some(rest) = code.strip_prefix("pub") {
        code = match rest.strip_prefix('(') {
            Some(inside) => inside.split_once(')').map_or("", |(_, rest)| rest),
            None => rest,
        };
    }
    code.split_whitespace()
        .find(|word| {
            let is_qualifier = ["default", "const", "async", "unsafe", "safe", "extern"];
            !is_qualifier.contains(word) && !word.starts_with('"')
        })
        .is_some_and(|word| word == "fn")
}

#[test]
fn every_form_of_function_is_measured() {
    let check = |head: &str, expected: bool| {
        let body = "    work();\n".repeat(FUNCTION_LINES);
        let found = long_functions(&format!("{head}() {{\n{body}}}\n")).count();
        assert_eq!(found == 1, expected, "{head}");
    };
    for head in [
        "fn f",
        "pub fn f",
        "pub(crate) async fn f",
        "pub(super) fn f",
        "pub(in crate::a::b) fn f",
        "const fn f",
        "pub const unsafe fn f",
        "unsafe extern \"C\" fn f",
    ] {
        check(head, true);
    }
    check("macro_rules! f", false);
    check("let function = f", false);
}

#[test]
fn what_the_architecture_page_names_exists() {
    let sources = sources();
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named = names::code_spans(&page).into_iter().filter_map(|(line, span)| {
        names::exists(span, root(), &sources).map(|exists| (line, span, exists))
    });
    let (found, lost): (Vec<_>, Vec<_>) = named.partition(|(_, _, exists)| *exists);
    let lost: Vec<_> = lost.iter().map(|(line, span, _)| format!("{line}: {span}")).collect();
    assert_none("names in ARCHITECTURE.md that are not in the code", &lost);
    assert!(found.len() > 15, "the page names too little: {found:?}");
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let text_file = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ending = path.extension().map(|e| e.to_string_lossy().into_owned());
        let endings = ["rs", "md", "toml", "yaml", "yml", "json", "sh", "conf", "txt"];
        ending.is_some_and(|e| endings.contains(&e.as_str())) && name != "tidy.rs"
    };
    let mut files = Vec::new();
    files_below(root(), &text_file, &mut files);
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if ["/work/", "/root/", "/home/"].iter().any(|place| line.contains(place)) {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert_none("paths of one machine", &found);
}
