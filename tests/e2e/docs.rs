//! The pages: README.md and docs. Their commands are run, the output that they show is compared,
//! and the files, flags and links that they name must exist.
//!
//! A page is one session of a shell, in an empty folder that has a copy of `configs`, with
//! `switchyard` first on the path:
//! - A block ```` ```sh ```` is pasted, in order. A command with `&` runs until the page ends.
//! - A block ```` ```text ```` right below it is what it prints, line by line; `…` stands for
//!   anything, a line with nothing else for any number of lines.
//! - A block that only asks (curl, dig, `switchyard explain` and the like, see [`session`]) is
//!   asked again for a while when the answer is another one: a reader is slower than a test.
//! - A block of any kind whose first line is a comment with a path in it, such as
//!   `# my-folder/web.yaml`, is the file of that name, and is written.
//! - A comment `<!-- not run: WHY -->` above a block keeps it from the session, not from the rest;
//!   `<!-- run: COMMAND -->` is what the text has the reader do besides, in another terminal say.

mod limits;
mod metrics;
pub mod page;
pub mod session;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use self::page::{Command as Typed, Page};
use self::session::{Place, follow};

const BINARY: &str = env!("CARGO_BIN_EXE_switchyard");

/// The pages that are followed, in this file or by the test of their area. Any other page with
/// commands fails a test.
const PAGES: [&str; 11] = [
    "README.md",
    "docs/README.md",
    "docs/cluster.md",
    "docs/compose.md",
    "docs/dns.md",
    "docs/explain.md",
    "docs/first-folder.md",
    "docs/kubectl.md",
    "docs/metrics.md",
    "docs/security.md",
    "docs/upgrade.md",
];

/// Commands of `switchyard`, to look up flags.
const COMMANDS: [&str; 12] = [
    "demo",
    "up",
    "feed",
    "proxy",
    "ingress",
    "dns",
    "check",
    "explain",
    "ready",
    "echo",
    "completions",
    "man",
];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages.
fn pages() -> Vec<Page> {
    let below_docs = std::fs::read_dir(root().join("docs")).into_iter().flatten();
    let names = below_docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().display()));
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".md")).collect();
    names.extend(
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "bench/README.md"].map(Into::into),
    );
    names.sort();
    names.iter().map(|name| Page::read(name)).collect()
}

#[test]
fn every_page_is_followed() {
    for page in pages() {
        let listed = PAGES.contains(&page.name.as_str());
        let runs = page.blocks.iter().any(|block| block.is_session() && block.not_run.is_none());
        assert!(listed || !runs, "{}: no test follows it; add one, and it to PAGES", page.name);
    }
}

/// The command line accepts every `switchyard` command of the pages.
#[test]
fn every_command_line_is_understood() {
    let mut found = Vec::new();
    let mut lines = 0;
    for page in pages() {
        let code = page.code_spans().filter(|(_, code)| code.starts_with("switchyard "));
        let typed = code.flat_map(|(line, code)| page::commands(line, &code));
        let pasted = page.blocks.iter().filter(|b| b.is_session()).flat_map(page::Block::commands);
        for Typed { line, words } in pasted.chain(typed.collect::<Vec<_>>()) {
            lines += 1;
            found.extend(misunderstood(&words).map(|why| format!("{}:{line}: {why}", page.name)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(lines > 10, "only {lines} command lines found");
}

/// The error of the command line for these arguments, if any.
fn misunderstood(words: &[String]) -> Option<String> {
    // Words in capitals are placeholders for values, which some flags would refuse.
    let placeholder = |word: &str| {
        let letter = |c: char| c.is_ascii_uppercase() || ['_', '…'].contains(&c);
        !word.is_empty() && word.chars().all(letter)
    };
    if words.iter().any(|word| placeholder(word)) {
        let first = words.first()?;
        let all = || COMMANDS.map(help_of).concat();
        let known = if placeholder(first) { all() } else { help_of(first).to_owned() };
        let unknown = words.iter().find(|w| w.starts_with("--") && !has_flag(&known, w));
        return unknown.map(|flag| format!("{} has no {flag}", words[0]));
    }
    // clap parses everything before it first.
    let mut command = Command::new(BINARY);
    command.args(words);
    if !words.iter().any(|word| ["--version", "--help"].contains(&word.as_str())) {
        command.arg("--help");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| format!("{words:?}: {said}"))
}

/// Whether a help text has that flag.
fn has_flag(help: &str, flag: &str) -> bool {
    let flag = flag.split('=').next().unwrap();
    help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == flag)
}

/// `--help` of a subcommand; empty if it does not exist.
pub fn help_of(command: &str) -> &'static str {
    static HELP: OnceLock<Vec<String>> = OnceLock::new();
    let all = HELP.get_or_init(|| {
        let help = |name: &&str| {
            let output = Command::new(BINARY).args([name, "--help"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        COMMANDS.iter().map(help).collect()
    });
    let at = COMMANDS.iter().position(|name| *name == command);
    at.map_or("", |at| &all[at])
}

/// Flags and variables named in the text.
#[test]
fn every_flag_in_the_text_exists() {
    let all: String = COMMANDS.map(help_of).concat();
    let of_cargo = ["--release", "--workspace", "--version"];
    let of_kubectl =
        ["--chunk-size", "--dry-run", "--raw", "--server", "--sort-by", "--subresource"];
    let of_docker = ["--scale"];
    let of_others = [&of_cargo[..], &of_kubectl, &of_docker].concat();
    let mut found = Vec::new();
    for page in pages().iter().filter(|page| page.name != "bench/README.md") {
        for (line, code) in page.code_spans() {
            let word = code.split([' ', '=']).next().unwrap();
            let of_ours = word.starts_with("--") && !of_others.contains(&word);
            let is_variable = word.starts_with("SWITCHYARD_");
            if of_ours && !has_flag(&all, word)
                || is_variable && !all.contains(&format!("[env: {word}="))
            {
                found.push(format!("{}:{line}: {word}", page.name));
            }
        }
    }
    assert!(found.is_empty(), "no such flag: {found:#?}");
}

#[test]
fn every_link_and_named_file_exists() {
    let mut found = Vec::new();
    for page in pages() {
        let folder = root().join(&page.name).parent().unwrap().to_owned();
        for (line, target) in page.links() {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if path.is_empty() { root().join(&page.name) } else { folder.join(path) };
            if !path.exists() || !anchor.is_empty() && !has_heading(&path, anchor) {
                found.push(format!("{}:{line}: {target}", page.name));
            }
        }
        let ours = ["configs/", "docs/", "bench/", "tests/", "feed/src/", ".ci/"];
        for (line, code) in page.code_spans() {
            let is_path = ours.iter().any(|folder| code.starts_with(folder));
            let plain = !code.contains([' ', '*', '{', '…']);
            let exists = || {
                let path = root().join(&code);
                path.exists() || path.with_extension("rs").exists()
            };
            if is_path && plain && !exists() {
                found.push(format!("{}:{line}: {code}", page.name));
            }
        }
    }
    assert!(found.is_empty(), "not there: {found:#?}");
}

/// Whether a page has a heading that GitHub gives this anchor.
fn has_heading(path: &Path, anchor: &str) -> bool {
    let text = std::fs::read_to_string(path).unwrap();
    let slug = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.replace(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'), "")
    };
    text.lines().any(|line| line.starts_with('#') && slug(line) == anchor)
}

/// Manifests in the pages pass `check`. Deliberate mistakes are made by commands, and do not count.
#[test]
fn every_manifest_in_the_pages_is_valid() {
    let mut checked = BTreeSet::new();
    for page in pages() {
        let folder = tempfile::tempdir().unwrap();
        for file in page.files() {
            let is_manifest = file.name.ends_with(".yaml") && file.text.contains("apiVersion:");
            if !is_manifest {
                continue;
            }
            let path = folder.path().join(file.name.replace('/', "-"));
            std::fs::write(&path, &file.text).unwrap();
            let output = Command::new(BINARY).arg("check").arg(&path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{}:{}: {said}", page.name, file.line);
            checked.insert(format!("{} {}", page.name, file.name));
        }
    }
    assert!(checked.len() > 3, "only {checked:?}");
}

/// A folder to follow a page in, with `configs`, and with `switchyard` on the path.
pub fn desk() -> tempfile::TempDir {
    let desk = tempfile::tempdir().unwrap();
    copy(&root().join("configs"), &desk.path().join("here/configs"));
    let programs = desk.path().join("bin");
    std::fs::create_dir_all(&programs).unwrap();
    std::os::unix::fs::symlink(BINARY, programs.join("switchyard")).unwrap();
    desk
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, to).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root for a network namespace, curl, dig and kubectl"]
fn readme() {
    follow("README.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace"]
fn index() {
    follow("docs/README.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace and curl"]
fn metrics_page() {
    follow("docs/metrics.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace and kubectl"]
fn kubectl_page() {
    follow("docs/kubectl.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace, curl and dig"]
fn first_folder() {
    follow("docs/first-folder.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace, dig, kdig and openssl"]
fn dns() {
    follow("docs/dns.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace, curl and dig"]
fn explain() {
    follow("docs/explain.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace, curl and openssl"]
fn security() {
    follow("docs/security.md", Place::Alone);
}

#[test]
#[ignore = "needs root for a network namespace and curl"]
fn upgrade() {
    follow("docs/upgrade.md", Place::Alone);
}
