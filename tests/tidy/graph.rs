//! The graph of a package's files: which file uses which, read from the code outside its tests.
//!
//! There is an arrow from file A to file B where a path in A names something that B defines. Paths
//! are those of `use` lines and those in the code (`crate::route::Table`, `super::Limits`,
//! `child::run()`, `wire::Name` after `use crate::wire`). They are followed through re-exports, so
//! that the arrow ends at the file with the definition, not at one that passes it on.
//!
//! These are not arrows: `mod child;`, a re-export of a child (`pub use child::Name`) that the file
//! does not use itself, the import of a module of which nothing is used, visibility such as
//! `pub(in crate::x)`, and calls of methods, which name no file.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as it is written, or a module counted from the root of its package.
type Path = Vec<String>;

/// More steps than any chain of re-exports has.
const MOST_STEPS: usize = 32;

pub(crate) struct Graph {
    /// From a file to the files it uses, with the names it uses of each.
    arrows: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

/// What one file says, outside its tests.
#[derive(Default)]
struct File {
    path: String,
    children: BTreeSet<String>,
    defined: BTreeSet<String>,
    imports: BTreeMap<String, Import>,
    globs: Vec<Path>,
    /// Paths in the code, of one word or more.
    used: BTreeSet<Path>,
}

#[derive(Clone)]
struct Import {
    path: Path,
    is_public: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Name(String),
    PathSeparator,
    Symbol(char),
    Open(char),
    Close(char),
}

struct Package {
    files: BTreeMap<Path, File>,
}

impl Graph {
    /// Of the files of one package: each one's path, which begins with `source` (such as
    /// `dns/src/`), and its text.
    pub(crate) fn new<'a>(source: &str, files: impl Iterator<Item = (&'a str, &'a str)>) -> Graph {
        let read = |(path, text): (&str, &str)| {
            let inner = path.strip_prefix(source).unwrap().strip_suffix(".rs").unwrap();
            let module = inner.split('/').map(str::to_owned).collect::<Path>();
            let is_root = module == ["lib"] || module == ["main"];
            (if is_root { Path::new() } else { module }, File::read(path, text))
        };
        let package = Package { files: files.map(read).collect() };
        let mut arrows = BTreeMap::new();
        for (module, file) in package.files.iter().filter(|(module, _)| package.is_built(module)) {
            let targets: &mut BTreeMap<_, BTreeSet<_>> =
                arrows.entry(file.path.clone()).or_default();
            for path in package.paths(file) {
                if let Some((target, name)) = package.definition(module, &path)
                    && target != file.path
                {
                    targets.entry(target).or_default().insert(name);
                }
            }
        }
        Graph { arrows }
    }

    /// Groups of files each of which uses, directly or not, all others of its group; with the
    /// arrows between them.
    pub(crate) fn circles(&self) -> Vec<String> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            self.arrows.keys().map(|file| (file.as_str(), self.reached_from(file))).collect();
        let mut found: BTreeSet<BTreeSet<&str>> = BTreeSet::new();
        for (file, targets) in &reached {
            let circle: BTreeSet<&str> =
                targets.iter().copied().filter(|other| reached[other].contains(file)).collect();
            if !circle.is_empty() {
                found.insert(circle);
            }
        }
        found.iter().map(|circle| self.describe(circle)).collect()
    }

    fn reached_from(&self, file: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = self.arrows[file].keys().map(String::as_str).collect();
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(self.arrows[file].keys().map(String::as_str));
            }
        }
        reached
    }

    fn describe(&self, circle: &BTreeSet<&str>) -> String {
        let mut lines = vec![format!("a circle of {} files:", circle.len())];
        for from in circle {
            for (to, names) in
                self.arrows[*from].iter().filter(|(to, _)| circle.contains(to.as_str()))
            {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                lines.push(format!("{from} -> {to}: {}", names.join(", ")));
            }
        }
        lines.join("\n    ")
    }
}

impl Package {
    /// Whether modules outside the tests declare it.
    fn is_built(&self, module: &[String]) -> bool {
        let Some((name, parent)) = module.split_last() else { return true };
        self.files.get(parent).is_some_and(|file| file.children.contains(name))
            && self.is_built(parent)
    }

    /// The paths of a file which may be arrows.
    fn paths(&self, file: &File) -> BTreeSet<Path> {
        let mut paths = file.used.clone();
        for import in file.imports.values() {
            let of_child = import.path.first().is_some_and(|first| {
                file.children.contains(first)
                    || first == "self"
                        && import.path.get(1).is_some_and(|it| file.children.contains(it))
            });
            if !(import.is_public && of_child) {
                paths.insert(import.path.clone());
            }
        }
        paths.extend(file.globs.iter().cloned());
        paths
    }

    /// The file that defines what a path in `module` names, and the name. Nothing for a module, and
    /// for what another package defines.
    fn definition(&self, module: &Path, path: &[String]) -> Option<(String, String)> {
        let (module, name) = self.resolve(module, path, MOST_STEPS)?;
        Some((self.files[&module].path.clone(), name?))
    }

    /// The module that a path leads to, and the name in it unless the module itself is meant.
    fn resolve(
        &self,
        from: &Path,
        path: &[String],
        steps: usize,
    ) -> Option<(Path, Option<String>)> {
        let steps = steps.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(Path::new(), rest, steps),
            "self" => self.walk(from.clone(), rest, steps),
            "super" => {
                let (_, parent) = from.split_last()?;
                match rest.first().map(String::as_str) {
                    Some("super") => self.resolve(&parent.to_vec(), rest, steps),
                    _ => self.walk(parent.to_vec(), rest, steps),
                }
            }
            _ => {
                let file = self.files.get(from)?;
                let known = file.children.contains(first) || file.imports.contains_key(first);
                known.then(|| self.walk(from.clone(), path, steps))?
            }
        }
    }

    fn walk(&self, module: Path, path: &[String], steps: usize) -> Option<(Path, Option<String>)> {
        let steps = steps.checked_sub(1)?;
        let file = self.files.get(&module)?;
        let Some((name, rest)) = path.split_first() else { return Some((module, None)) };
        if file.children.contains(name) {
            let child = [&module[..], std::slice::from_ref(name)].concat();
            return self.walk(child, rest, steps);
        }
        if let Some(import) = file.imports.get(name) {
            let (at, item) = self.resolve(&module, &import.path, steps)?;
            return if item.is_some() { Some((at, item)) } else { self.walk(at, rest, steps) };
        }
        if !file.defined.contains(name) {
            for glob in &file.globs {
                if let Some((at, None)) = self.resolve(&module, glob, steps)
                    && self.files[&at].defined.contains(name)
                {
                    return Some((at, Some(name.clone())));
                }
            }
        }
        Some((module, Some(name.clone())))
    }
}

impl File {
    fn read(path: &str, text: &str) -> File {
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut words = Vec::new();
        flatten(tokens, &mut words);
        let mut file = File { path: path.to_owned(), ..File::default() };
        let mut at = 0;
        while at < words.len() {
            at = file.read_at(&words, at);
        }
        file
    }

    /// Reads what begins at a word, and says where the next begins.
    fn read_at(&mut self, words: &[Word], at: usize) -> usize {
        let Word::Name(word) = &words[at] else { return at + 1 };
        let next = words.get(at + 1);
        let next_name = match next {
            Some(Word::Name(name)) => Some(name.clone()),
            _ => None,
        };
        match word.as_str() {
            "use" if next != Some(&Word::Symbol('<')) => {
                let is_public = at > 0
                    && matches!(&words[at - 1], Word::Close(')') | Word::Name(_))
                    && words[at.saturating_sub(6)..at].contains(&Word::Name("pub".to_owned()));
                let mut end = at + 1;
                self.read_use(words, &mut end, &Path::new(), is_public);
                return end;
            }
            "mod" => {
                if words.get(at + 2) == Some(&Word::Symbol(';')) {
                    self.children.extend(next_name);
                }
                return at + 2;
            }
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" => {
                self.defined.extend(next_name.clone());
                // The word itself is no use of an import of the same name; but `const fn` is next.
                return at + if next_name.as_deref().is_some_and(is_keyword) { 1 } else { 2 };
            }
            _ => {}
        }
        let follows = at > 0 && matches!(words[at - 1], Word::PathSeparator | Word::Symbol('.'));
        let mut path = vec![word.clone()];
        let mut end = at + 1;
        while let (Some(Word::PathSeparator), Some(Word::Name(name))) =
            (words.get(end), words.get(end + 1))
        {
            path.push(name.clone());
            end += 2;
        }
        if !follows && next != Some(&Word::Symbol(':')) {
            self.used.insert(path);
        }
        end
    }

    /// Reads a tree of imports: `a::b`, `a::{b, c as d}`, `a::*`.
    fn read_use(&mut self, words: &[Word], at: &mut usize, before: &Path, is_public: bool) {
        let mut path = before.clone();
        loop {
            match words.get(*at) {
                Some(Word::Name(name)) if name == "as" => {
                    if let Some(Word::Name(other)) = words.get(*at + 1) {
                        self.import(other, &path, is_public);
                    }
                    *at += 2;
                    return;
                }
                Some(Word::Name(name)) => path.push(name.clone()),
                Some(Word::Symbol('*')) => {
                    self.globs.push(path);
                    *at += 1;
                    return;
                }
                Some(Word::Open('{')) => {
                    *at += 1;
                    while words.get(*at) != Some(&Word::Close('}')) {
                        self.read_use(words, at, &path, is_public);
                        if words.get(*at) == Some(&Word::Symbol(',')) {
                            *at += 1;
                        }
                    }
                    *at += 1;
                    return;
                }
                Some(Word::PathSeparator) => {}
                _ => break,
            }
            *at += 1;
        }
        if path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(name) = path.last().cloned() {
            self.import(&name, &path, is_public);
        }
    }

    fn import(&mut self, name: &str, path: &Path, is_public: bool) {
        // Those named `_` differ, and nothing refers to them by name.
        let name = if name == "_" { path.join("::") } else { name.to_owned() };
        self.imports.insert(name, Import { path: path.clone(), is_public });
    }
}

fn is_keyword(word: &str) -> bool {
    ["fn", "unsafe", "async", "extern", "mut"].contains(&word)
}

/// Tokens in a row, without literals, comments and what is for tests alone.
fn flatten(tokens: TokenStream, words: &mut Vec<Word>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '#' => {
                let is_for_tests = tokens.peek().is_some_and(|next| {
                    let text = next.to_string().replace(' ', "");
                    text.starts_with("[cfg(test)") || text.starts_with("[cfg(all(test")
                });
                if is_for_tests {
                    skip_item(&mut tokens);
                }
            }
            TokenTree::Punct(sign) if sign.as_char() == ':' => {
                let is_path =
                    matches!(tokens.peek(), Some(TokenTree::Punct(s)) if s.as_char() == ':');
                if is_path {
                    tokens.next();
                }
                words.push(if is_path { Word::PathSeparator } else { Word::Symbol(':') });
            }
            TokenTree::Punct(sign) => words.push(Word::Symbol(sign.as_char())),
            TokenTree::Ident(name) => words.push(Word::Name(name.to_string())),
            TokenTree::Literal(_) => words.push(Word::Symbol('"')),
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ('{', '}'),
                    Delimiter::Parenthesis => ('(', ')'),
                    _ => ('[', ']'),
                };
                words.push(Word::Open(open));
                flatten(group.stream(), words);
                words.push(Word::Close(close));
            }
        }
    }
}

/// An item ends with a semicolon or with a block.
fn skip_item(tokens: &mut impl Iterator<Item = TokenTree>) {
    for token in tokens {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == ';' => return,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            _ => {}
        }
    }
}

/// What the check sees of small packages: one circle each, or none.
#[test]
fn circles_are_found_by_what_paths_name() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let found = Graph::new("p/src/", files.iter().copied()).circles();
        assert_eq!(found.len(), expected.len(), "{files:?}: {found:?}");
        for (circle, expected) in found.iter().zip(expected) {
            assert!(circle.contains(expected), "{circle} lacks {expected}");
        }
    };
    let lib = ("p/src/lib.rs", "mod a; mod b; pub use a::A;");
    // A parent that passes on what its child defines is not above it.
    check(
        &[("p/src/lib.rs", "mod a; pub use a::A; pub struct L;"), ("p/src/a.rs", "use crate::L;")],
        &[],
    );
    // One that uses it is.
    let uses = "mod a; pub use a::A; pub struct L; fn f() -> A { A }";
    check(
        &[("p/src/lib.rs", uses), ("p/src/a.rs", "use crate::L; pub struct A;")],
        &["lib.rs -> p/src/a.rs: A"],
    );
    // Followed through a re-export; groups, `self`, another name, a path in the code.
    let b = ("p/src/b.rs", "use crate::{A as Other}; pub fn b(_: Other) {}");
    check(
        &[lib, ("p/src/a.rs", "pub struct A; fn f() { super::b::b(A) }"), b],
        &["b.rs -> p/src/a.rs: A"],
    );
    check(
        &[lib, ("p/src/a.rs", "use super::b::{self}; pub struct A; fn f() { b::b(A) }"), b],
        &["2 files"],
    );
    // Tests, comments, texts and other packages are no use of a file.
    let quiet = "pub struct A; // crate::b::b\n#[cfg(test)] mod tests { use crate::b::b; }\n\
                 const T: &str = \"crate::b::b\"; use b2::b;";
    check(&[lib, ("p/src/a.rs", quiet), b], &[]);
    // A module that is imported and of which nothing is used.
    check(&[lib, ("p/src/a.rs", "use super::b; pub struct A;"), b], &[]);
    // Macros hold code as well.
    check(
        &[lib, ("p/src/a.rs", "pub struct A; fn f() { info!(x = crate::b::b(A)) }"), b],
        &["2 files"],
    );
}
