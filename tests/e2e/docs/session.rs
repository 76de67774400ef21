//! Follows a page like a reader: one shell runs all blocks in order, and the output of each block
//! is compared with the page.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::desk;
use super::page::{Block, Page};

/// How long a block that only reads is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(30);
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// The programs of commands that only read; for `switchyard`, a few subcommands.
const ASKS: [&str; 12] =
    ["curl", "dig", "kdig", "kubectl", "grep", "cat", "ls", "head", "for", "do", "done", "echo"];
const ASKS_OF_OURS: [&str; 3] = ["explain", "check", "--version"];

/// Marks the end of a block's output; followed by its exit code.
const MARK: &str = "=== end of block";

/// Where a page is followed.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// In its own network and process namespaces, which end with the page: needs root.
    Alone,
    /// This machine as it is, for pages with containers; `Duration` is what a block may take.
    #[allow(dead_code, reason = "for pages that need a container engine")]
    Here(Duration),
}

impl Place {
    fn patience(self) -> Duration {
        match self {
            Place::Alone => Duration::from_secs(60),
            Place::Here(patience) => patience,
        }
    }

    fn shell(self) -> Command {
        let mut command = match self {
            Place::Here(_) => Command::new("bash"),
            Place::Alone => {
                let mut command = Command::new("unshare");
                command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
                command.args(["bash", "-c", "ip link set lo up && exec bash"]);
                command
            }
        };
        command.process_group(0);
        command
    }
}

/// Follows a page to its end.
///
/// # Panics
///
/// At the first block that fails or whose output differs from the page.
pub fn follow(name: &str, place: Place) {
    let page = Page::read(name);
    let mut session = Session::start(place);
    let mut ran = 0;
    for (at, block) in page.blocks.iter().enumerate() {
        if block.not_run.is_some() {
            continue;
        }
        if let Some(file) = block.file() {
            session.write(&file.name, &file.text);
        } else if block.is_session() {
            let below = page.blocks.get(at + 1);
            let expected = below.filter(|below| below.follows && below.language == "text");
            session.run(&format!("{name}:{}", block.line), block, expected);
            ran += 1;
        }
    }
    assert!(ran > 0, "{name}: nothing to follow");
}

/// A running shell.
struct Session {
    shell: Child,
    typed: ChildStdin,
    printed: Receiver<String>,
    place: Place,
    /// Its folder is `here`.
    desk: tempfile::TempDir,
}

impl Session {
    fn start(place: Place) -> Session {
        let desk = desk();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", desk.path().join("bin").display());
        let mut command = place.shell();
        for (name, _) in std::env::vars() {
            let foreign = name.starts_with("SWITCHYARD_") || name.to_lowercase().contains("_proxy");
            if foreign {
                command.env_remove(name);
            }
        }
        command.current_dir(desk.path().join("here"));
        command.env("PATH", path).env("HOME", desk.path()).env("LC_ALL", "C.UTF-8");
        command.env("XDG_RUNTIME_DIR", desk.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().expect("unshare and bash");
        let (send, printed) = channel();
        let output = BufReader::new(shell.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let typed = shell.stdin.take().unwrap();
        let mut session = Session { shell, typed, printed, place, desk };
        session.write_line("exec 2>&1");
        session
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.desk.path().join("here").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn write_line(&mut self, line: &str) {
        // If the shell has ended, its output shows why.
        let _ = writeln!(self.typed, "{line}");
    }

    fn run(&mut self, place: &str, block: &Block, expected: Option<&Block>) {
        let script = self.desk.path().join("block.sh");
        for command in &block.before {
            std::fs::write(&script, command).unwrap();
            let (code, printed) = self.paste(&script, false);
            assert_eq!(code, Some(0), "{place}: {command}\n{printed}");
        }
        std::fs::write(&script, &block.text).unwrap();
        let asks = only_asks(block);
        let begun = Instant::now();
        loop {
            let (code, printed) = self.paste(&script, asks);
            let wrong = match expected {
                _ if code != Some(0) => Some(format!("exit code {code:?}")),
                Some(expected) => difference(&expected.text, &printed),
                None => None,
            };
            let Some(wrong) = wrong else { return };
            if !asks || begun.elapsed() > ASK_AGAIN {
                let log = self.logs();
                panic!("{place}: {wrong}\n{}--- printed:\n{printed}{log}", block.text);
            }
            std::thread::sleep(ASK_PAUSE);
        }
    }

    /// The exit code of the script, `None` if it ended the shell, and what it printed.
    fn paste(&mut self, script: &Path, asks: bool) -> (Option<i32>, String) {
        let script = script.display();
        // Programs must not read the following commands as their input.
        let line = if asks {
            format!("(set -eu; . {script}) </dev/null; printf '\\n{MARK} %s\\n' $?")
        } else {
            format!("set -eu; . {script} </dev/null; set +eu; printf '\\n{MARK} %s\\n' 0")
        };
        self.write_line(&line);
        let mut printed = String::new();
        let begun = Instant::now();
        loop {
            let left = self.place.patience().saturating_sub(begun.elapsed());
            match self.printed.recv_timeout(left) {
                Ok(line) => match line.strip_prefix(MARK) {
                    Some(code) => return (code.trim().parse().ok(), printed),
                    None => printed = printed + &line + "\n",
                },
                Err(RecvTimeoutError::Disconnected) => return (None, printed),
                Err(RecvTimeoutError::Timeout) => panic!("no end: {script}\n{printed}"),
            }
        }
    }

    /// The content of the page's `*.log` files, to be shown with a failure.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(self.desk.path().join("here")).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|e| e == "log"));
        logs.map(|path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            format!("--- {}:\n{text}", path.display())
        })
        .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.shell.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Whether the block changes nothing, so that it may be repeated.
fn only_asks(block: &Block) -> bool {
    block.lines().iter().all(|(_, line)| {
        let line = line.split(" #").next().unwrap().trim();
        let mut words = line.split_whitespace();
        let asks = match (words.next(), words.next()) {
            (None, _) => true,
            (Some("switchyard"), Some(command)) => ASKS_OF_OURS.contains(&command),
            (Some(word), _) => ASKS.contains(&word) || word.starts_with('#'),
        };
        asks && !line.ends_with('&') && !line.contains("> ")
    })
}

/// What is wrong with it, if `printed` is not what `expected` says.
fn difference(expected: &str, printed: &str) -> Option<String> {
    let lines = |text: &str| -> Vec<String> {
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    };
    let (expected, printed) = (lines(expected), lines(printed));
    match first_unlike(&expected, &printed) {
        None => None,
        Some(at) => {
            let line = |lines: &[String]| lines.get(at).cloned().unwrap_or("the end".into());
            Some(format!("line {} is not as the page says: {:?}", at + 1, line(&printed)))
        }
    }
}

/// The first printed line that does not fit.
fn first_unlike(expected: &[String], printed: &[String]) -> Option<usize> {
    let Some(first) = expected.first() else {
        return (!printed.is_empty()).then_some(0);
    };
    if first.trim() == "…" {
        let rests = 0..=printed.len();
        let unlike = |from: usize| Some(from + first_unlike(&expected[1..], &printed[from..])?);
        return rests.map(unlike).min_by_key(|unlike| unlike.map_or(0, |at| usize::MAX - at))?;
    }
    match printed.first() {
        Some(line) if fits(first, line) => Some(1 + first_unlike(&expected[1..], &printed[1..])?),
        _ => Some(0),
    }
}

/// Whether a line matches a pattern, in which each `…` matches anything.
fn fits(pattern: &str, line: &str) -> bool {
    let Some((begin, rest)) = pattern.split_once('…') else { return pattern == line };
    let Some(mut line) = line.strip_prefix(begin) else { return false };
    let mut parts: Vec<_> = rest.split('…').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = line.find(part) else { return false };
        line = &line[at + part.len()..];
    }
    line.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_fits_the_page() {
        let table = [
            ("a\nb\n", "a\nb\n", true),
            ("a\nb\n", "a\n", false),
            ("a\n", "a\nb\n", false),
            ("a … c\n", "a b c\n", true),
            ("a … c\n", "a b d\n", false),
            ("…\nb\n", "x\ny\nb\n", true),
            ("…\nb\n", "x\ny\nb\nz\n", false),
            ("a\n…\n", "a\n", true),
            ("took … ms of …\n", "took 12 ms of 13\n", true),
            ("", "a\n", false),
            ("", "\n", true),
        ];
        for (expected, printed, fits) in table {
            assert_eq!(difference(expected, printed).is_none(), fits, "{expected:?} {printed:?}");
        }
    }
}
