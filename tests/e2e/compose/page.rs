//! Follows docs/compose.md like a reader, from top to bottom: ```sh blocks are pasted into one
//! shell, blocks that begin with a comment with a path are saved as that file, and the block above
//! a ```text block must print its text, where `…` matches anything. Until it does, the block is
//! pasted again, because a reader is slower.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::world::World;

/// How long a block may take to print what the page shows, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, PartialEq, Eq)]
enum Block {
    Commands(String),
    Output(String),
    File { name: String, text: String },
}

/// Runs all of it in the world's clone.
pub fn follow(world: &World) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compose.md");
    let blocks = blocks(&std::fs::read_to_string(page).unwrap());
    assert!(blocks.len() > 10, "{blocks:?}");
    let place = world.clone.file(".place");
    std::fs::write(&place, world.clone.path().display().to_string()).unwrap();
    for (number, block) in blocks.iter().enumerate() {
        match block {
            Block::Commands(commands) => {
                let output = match blocks.get(number + 1) {
                    Some(Block::Output(output)) => output,
                    _ => "",
                };
                follow_commands(world, &place, commands, output);
            }
            Block::File { name, text } => {
                let folder = std::fs::read_to_string(&place).unwrap();
                std::fs::write(Path::new(folder.trim()).join(name), text).unwrap();
            }
            Block::Output(_) => {}
        }
    }
}

fn follow_commands(world: &World, place: &Path, commands: &str, expected: &str) {
    let begun = Instant::now();
    let place_text = place.display();
    let script = format!(
        "set -eo pipefail\n{}cd \"$(cat {place_text})\"\n{commands}\npwd > {place_text}\n",
        world.shell_prelude()
    );
    loop {
        let mut bash: Command = world.command("bash");
        let output = bash.args(["-c", &script]).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && shows(&printed, expected) {
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let is_over = expected.is_empty() || begun.elapsed() > PATIENCE;
        assert!(!is_over, "{commands}\nprinted:\n{printed}{said}\nand not:\n{expected}");
        std::thread::sleep(PAUSE);
    }
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let text: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = text.join("\n") + "\n";
        let path = text.lines().next().and_then(|line| line.strip_prefix("# "));
        match (info, path) {
            ("sh", _) => blocks.push(Block::Commands(text)),
            ("text", _) => blocks.push(Block::Output(text)),
            // A part of an existing file.
            (_, Some(path)) if path.ends_with(", in part") => {}
            (_, Some(path)) => blocks.push(Block::File { name: path.to_owned(), text }),
            _ => panic!("a block that nobody runs: {text}"),
        }
    }
    blocks
}

/// Whether all lines of `expected` are printed, in their order.
fn shows(printed: &str, expected: &str) -> bool {
    let mut printed = printed.lines();
    expected.lines().all(|wanted| printed.any(|line| line_shows(line, wanted)))
}

fn line_shows(line: &str, wanted: &str) -> bool {
    let mut rest = line.trim_end();
    let mut pieces = wanted.trim_end().split('…');
    let first = pieces.next().unwrap_or_default();
    let Some(after) = rest.strip_prefix(first) else { return false };
    rest = after;
    let mut open_end = false;
    for piece in pieces {
        open_end = piece.is_empty();
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    open_end || rest.is_empty()
}

#[test]
fn a_page_is_read_in_blocks() {
    let page = "Text\n```sh\na\nb\n```\n```text\nc\n```\n```yaml\n# x.yaml\nd: 1\n```\n";
    let file = Block::File { name: "x.yaml".to_owned(), text: "# x.yaml\nd: 1\n".to_owned() };
    let expected = [Block::Commands("a\nb\n".to_owned()), Block::Output("c\n".to_owned()), file];
    assert_eq!(blocks(page), expected);
    let check = |printed: &str, expected: &str, is_shown: bool| {
        assert_eq!(shows(printed, expected), is_shown, "{printed:?} {expected:?}");
    };
    check("a\nb\nc\n", "a\nc\n", true);
    check("a\nb\nc\n", "c\na\n", false);
    check("name: web-1 at 1\n", "name: …-1…\n", true);
    check("name: web-1 at 1\n", "name: …-1\n", false);
    check("name: web-1\n", "name: web\n", false);
    check("x name\n", "name\n", false);
    check("", "", true);
}
