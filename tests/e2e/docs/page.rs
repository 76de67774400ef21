//! Reads a page: its blocks of code, the commands and files in them, links and code in the text.
//!
//! As much of Markdown as the pages use: fences of three backticks at the start of a line, inline
//! code, and links of the form `[text](target)`.

use super::root;

/// A page, by its path from the root of the repository.
#[derive(Debug)]
pub struct Page {
    pub name: String,
    pub blocks: Vec<Block>,
    /// Lines outside the blocks, with their numbers.
    prose: Vec<(usize, String)>,
}

/// A block of code.
#[derive(Debug)]
pub struct Block {
    /// The line of its fence, from 1.
    pub line: usize,
    pub language: String,
    pub text: String,
    /// Why it is not run, if the page says so.
    pub not_run: Option<String>,
    /// A command that is run before it and that the page does not show.
    pub before: Vec<String>,
    /// Whether only empty lines are between it and the block before.
    pub follows: bool,
}

/// A command: the words after `switchyard`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub line: usize,
    pub words: Vec<String>,
}

/// A file that a page has written.
#[derive(Debug)]
pub struct File {
    pub line: usize,
    pub name: String,
    pub text: String,
}

impl Page {
    pub fn read(name: &str) -> Page {
        Page::parse(name, &std::fs::read_to_string(root().join(name)).unwrap())
    }

    fn parse(name: &str, text: &str) -> Page {
        let mut page = Page { name: name.to_owned(), blocks: Vec::new(), prose: Vec::new() };
        let mut open: Option<Block> = None;
        let (mut not_run, mut before, mut follows) = (None, Vec::new(), false);
        for (number, line) in (1..).zip(text.lines()) {
            match (&mut open, line.strip_prefix("```")) {
                (Some(_), Some(_)) => {
                    page.blocks.extend(open.take());
                    follows = true;
                }
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, Some(language)) => {
                    let (language, text) = (language.trim().to_owned(), String::new());
                    let (not_run, before) = (not_run.take(), std::mem::take(&mut before));
                    let line = number;
                    open = Some(Block { line, language, text, not_run, before, follows });
                }
                (None, None) => {
                    not_run = comment(line, "not run: ").or(not_run);
                    before.extend(comment(line, "run: "));
                    follows &= line.trim().is_empty();
                    page.prose.push((number, line.to_owned()));
                }
            }
        }
        assert!(open.is_none(), "{name}: a block without an end");
        page
    }

    /// Inline code, with its line.
    pub fn code_spans(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.prose.iter().flat_map(|(number, line)| {
            line.split('`').skip(1).step_by(2).map(|code| (*number, code.to_owned()))
        })
    }

    /// The targets of links, with their line.
    pub fn links(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.prose.iter().flat_map(|(number, line)| {
            let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            targets.map(|target| (*number, target.to_owned()))
        })
    }

    /// The files that the reader writes: blocks that name one, and here-documents.
    pub fn files(&self) -> Vec<File> {
        self.blocks.iter().flat_map(|b| b.file().into_iter().chain(b.here_documents())).collect()
    }
}

impl Block {
    /// Whether a shell reads it.
    pub fn is_session(&self) -> bool {
        ["sh", "bash", "console"].contains(&self.language.as_str())
    }

    /// The file of this block, if its first line is a comment with only a path.
    pub fn file(&self) -> Option<File> {
        let name = self.text.lines().next()?.trim().strip_prefix("# ")?.trim();
        let is_path = name.contains('.') && !name.contains(' ') && !name.ends_with('.');
        let (name, text) = (name.to_owned(), self.text.clone());
        (is_path && !self.is_session()).then_some(File { line: self.line, name, text })
    }

    /// What `cat > FILE <<'EOF'` writes.
    fn here_documents(&self) -> Vec<File> {
        let mut found = Vec::new();
        let mut lines = (self.line + 1..).zip(self.text.lines());
        while let Some((line, command)) = lines.next() {
            let Some((name, end)) = here_document(command) else { continue };
            let text = lines.by_ref().map(|(_, l)| l).take_while(|l| *l != end);
            let text = text.map(|line| format!("{line}\n")).collect();
            found.push(File { line, name: name.to_owned(), text });
        }
        found
    }

    /// The lines for the shell without the content of here-documents, each joined with its
    /// continuation lines.
    pub fn lines(&self) -> Vec<(usize, String)> {
        let mut found: Vec<(usize, String)> = Vec::new();
        let mut lines = (self.line + 1..).zip(self.text.lines());
        let mut continued = false;
        while let Some((number, line)) = lines.next() {
            let whole = line.trim_end_matches('\\');
            match found.last_mut().filter(|_| continued) {
                Some((_, before)) => before.push_str(whole),
                None => found.push((number, whole.to_owned())),
            }
            continued = whole.len() < line.len();
            if let Some((_, end)) = here_document(line) {
                lines.by_ref().find(|(_, line)| *line == end);
            }
        }
        found
    }

    /// Every call of `switchyard`.
    pub fn commands(&self) -> Vec<Command> {
        self.lines().iter().flat_map(|(number, line)| commands(*number, line)).collect()
    }
}

/// The rest of a comment that begins with these words.
fn comment(line: &str, words: &str) -> Option<String> {
    let text = line.trim().strip_prefix("<!-- ")?.strip_suffix("-->")?;
    Some(text.strip_prefix(words)?.trim().to_owned())
}

/// The file and the end mark of `cat > FILE <<'EOF'`.
fn here_document(line: &str) -> Option<(&str, &str)> {
    let (before, end) = line.split_once("<<")?;
    let name = before.split_once('>').map_or("", |(_, name)| name.trim());
    Some((name, end.trim().trim_matches(['\'', '"', '-'])))
}

/// The calls of `switchyard` in a line: their arguments up to what ends a command.
pub fn commands(line: usize, text: &str) -> Vec<Command> {
    let mut found = Vec::new();
    let words = words(text);
    let calls = words.iter().enumerate().filter(|(at, word)| {
        let begins = at.checked_sub(1).is_none_or(|before| {
            let before = words[before].as_str();
            ends_command(before) || ["do", "then", "!", "time", "--"].contains(&before)
        });
        // `cargo run -- demo` runs it as well.
        *word == "switchyard" && begins || *word == "--" && words.starts_with(&["cargo".into()])
    });
    for (at, _) in calls {
        let arguments = words[at + 1..].iter().take_while(|word| !ends_command(word));
        let arguments =
            arguments.filter(|word| !word.starts_with(['>', '<']) && !word.contains("2>"));
        found.push(Command { line, words: arguments.cloned().collect() });
    }
    found
}

fn ends_command(word: &str) -> bool {
    ["|", "||", "&", "&&", ";", ")", "(", "$("].contains(&word)
}

/// Splits as a shell does, as far as the pages need it: quotes, comments, and operators that
/// stand by themselves or end a word. Targets of redirections go.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in text.chars().chain([' ']) {
        match (quote, character) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, ';' | ')' | '(') => {
                words.extend(word.take());
                words.push(character.to_string());
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    let is_redirection = |word: &String| ["<", ">", ">>", "2>", "&>"].contains(&word.as_str());
    while let Some(at) = words.iter().position(is_redirection) {
        words.drain(at..(at + 2).min(words.len()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_files_and_commands_of_a_page() {
        let text = "# Title\n\nSee `--feed` and [it](other.md#part).\n\n```sh\n\
            cat > dir/a.yaml <<'EOF'\nkind: X\nEOF\nswitchyard check dir \\\n  --output json | \
            head -1  # switchyard no\n```\n\n```text\nout\n```\n<!-- not run: takes long -->\n\
            <!-- run: one -->\n\
            ```yaml\n# dir/b.yaml\nkind: Y\n```\n";
        let page = Page::parse("x.md", text);
        let kinds: Vec<_> = page.blocks.iter().map(|b| (&*b.language, b.follows)).collect();
        assert_eq!(kinds, [("sh", false), ("text", true), ("yaml", false)]);
        assert_eq!(page.blocks[2].not_run.as_deref(), Some("takes long"));
        assert_eq!(page.blocks[2].before, ["one"]);
        let files = page.files();
        let files: Vec<_> = files.iter().map(|f| (&*f.name, &*f.text)).collect();
        let b = "# dir/b.yaml\nkind: Y\n";
        assert_eq!(files, [("dir/a.yaml", "kind: X\n"), ("dir/b.yaml", b)]);
        let words = ["check", "dir", "--output", "json"].map(String::from).into();
        assert_eq!(page.blocks[0].commands(), [Command { line: 9, words }]);
        assert_eq!(page.links().collect::<Vec<_>>(), [(3, "other.md#part".to_owned())]);
        assert_eq!(page.code_spans().collect::<Vec<_>>(), [(3, "--feed".to_owned())]);
    }

    #[test]
    fn calls_of_switchyard_in_a_line() {
        let table = [
            ("switchyard up dir > log 2>&1 &", vec!["up dir"]),
            ("switchyard check a || echo \"exit $?\"", vec!["check a"]),
            ("for i in 1 2; do switchyard explain $i; done", vec!["explain $i"]),
            ("cd x && switchyard feed --dir 'a b'", vec!["feed --dir a b"]),
            ("cargo run --release -- demo --once", vec!["demo --once"]),
            ("docker run ghcr.io/x switchyard-ish", vec![]),
            ("kill $(pidof switchyard)", vec![]),
        ];
        for (line, expected) in table {
            let found = commands(1, line);
            let found: Vec<_> = found.iter().map(|c| c.words.join(" ")).collect();
            assert_eq!(found, expected, "{line}");
        }
    }
}
