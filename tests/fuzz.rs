//! Runs every fuzz target for a bounded number of inputs: its seeds, and mutations of them. The
//! inputs are the same in every run. The targets under `fuzz/` call the same functions without a
//! limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and end")]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Mutations of seeds for each target, unless `SWITCHYARD_FUZZ_INPUTS` says another number.
const INPUTS: usize = 4_000;
/// Where the random numbers begin, unless `SWITCHYARD_FUZZ_SEED` says another number.
const SEED: usize = 1;
/// A mutated input is no longer than this.
const MAX_LENGTH: usize = 16 << 10;

/// Bytes with a meaning in many formats, such as delimiters.
const TOKENS: [&[u8]; 32] = [
    b"---\n",
    b"...",
    b"\n",
    b"\r\n",
    b"\t",
    b": ",
    b"- ",
    b"? ",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!str ",
    b"|\n",
    b">-\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"'",
    b"\\u0000",
    b"%2e",
    b"%00",
    b"/../",
    b"//",
    b"HTTP/1.1 ",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"0\r\n\r\n",
    b"\xc0\x0c",
    b"\xff\xff\xff\xff",
    b"\0",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// The files of `fuzz/seeds/TARGET`, and for manifests all files of `configs/`.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    files_below(&root().join("fuzz/seeds").join(target), &mut files);
    if ["yaml", "manifest"].contains(&target) {
        files_below(&root().join("configs"), &mut files);
    }
    files.sort();
    let seeds: Vec<_> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 64));
        match random.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => drop(input.drain(at..end)),
            3 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            4 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            5 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(MAX_LENGTH);
    input
}

fn setting(name: &str, usual: usize) -> usize {
    match std::env::var(name) {
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{name} is not a number")),
        Err(_) => usual,
    }
}

fn run(target: &str, parse: fn(&[u8])) {
    let seeds = seeds(target);
    let mut random = StdRng::seed_from_u64(setting("SWITCHYARD_FUZZ_SEED", SEED) as u64);
    let inputs = setting("SWITCHYARD_FUZZ_INPUTS", INPUTS);
    let mutations = (0..inputs).map(|_| mutated(&seeds, &mut random));
    for input in seeds.iter().cloned().chain(mutations) {
        let outcome = catch_unwind(AssertUnwindSafe(|| parse(&input)));
        assert!(outcome.is_ok(), "{target} failed for b\"{}\"", input.escape_ascii());
    }
}

macro_rules! targets {
    ($($name:ident: $parse:path,)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), $parse);
        })*

        const TARGETS: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    yaml: model::fuzz::yaml,
    json: model::fuzz::json,
    manifest: model::fuzz::manifest,
    query: dns::fuzz::query,
    reply: dns::fuzz::reply,
    response: ingress::fuzz::response,
    path: ingress::fuzz::path,
    host: ingress::fuzz::host,
    names: ingress::fuzz::names,
    passwords: ingress::fuzz::passwords,
    authorization: ingress::fuzz::authorization,
    traceparent: ingress::fuzz::traceparent,
    addresses: ingress::fuzz::addresses,
    template: ingress::fuzz::template,
    proxy_header: daemon::fuzz::proxy_header,
}

/// Each has a fuzz target that calls the same function.
#[test]
fn the_fuzzer_has_the_same_targets() {
    let mut files = Vec::new();
    files_below(&root().join("fuzz/targets"), &mut files);
    let stems = files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap());
    assert_eq!(stems.collect::<BTreeSet<_>>(), TARGETS.iter().copied().collect());
    let manifest = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("path = \"targets/{target}.rs\"")), "{target}");
        let text =
            std::fs::read_to_string(root().join(format!("fuzz/targets/{target}.rs"))).unwrap();
        assert!(text.contains(&format!("::fuzz::{target}(data)")), "{target}");
    }
}
