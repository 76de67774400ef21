//! Tells the binary which commit it was built from: the environment variable `SWITCHYARD_COMMIT`,
//! otherwise what git reports for this folder, otherwise nothing.
//!
//! Git is asked only for the profiles `release` and `dist`, so that a commit does not cause a new
//! build of the binary for tests.

use std::path::Path;
use std::process::Command;

/// What the binary is built from.
const SOURCES: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "apiserver",
    "balance",
    "build.rs",
    "daemon",
    "dns",
    "feed",
    "ingress",
    "model",
    "proxy",
    "src",
];

fn main() {
    println!("cargo::rerun-if-env-changed=SWITCHYARD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("SWITCHYARD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(|| is_release().then(ask_git).flatten()).unwrap_or_default();
    println!("cargo::rustc-env=SWITCHYARD_BUILT_COMMIT={commit}");
    let in_brackets = if commit.is_empty() { String::new() } else { format!(" ({commit})") };
    let version = env!("CARGO_PKG_VERSION");
    println!("cargo::rustc-env=SWITCHYARD_BUILT_VERSION={version}{in_brackets}");
}

/// Whether the profile is `release` or `dist`. Cargo's PROFILE says `release` for every profile
/// derived from it; the folder of the build is named after the profile itself.
fn is_release() -> bool {
    let built_in = std::env::var("OUT_DIR").unwrap_or_default();
    // …/dist/build/switchyard-HASH/out
    Path::new(&built_in)
        .ancestors()
        .nth(3)
        .is_some_and(|folder| folder.ends_with("release") || folder.ends_with("dist"))
}

/// The commit, shortened, with `-dirty` when what is built differs from it. Nothing without git,
/// or when this folder is part of another repository.
fn ask_git() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    // HEAD names the branch, and its log grows with each commit.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        // Cargo would run this script at each build for a file that does not exist.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let status = [&["status", "--porcelain", "--"], &SOURCES[..]].concat();
    let dirty = if git(&status)?.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{dirty}"))
}

/// What git prints, trimmed.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
