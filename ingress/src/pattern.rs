//! Paths that are regular expressions, in the order in which ingress-nginx tries them.
//!
//! Pure. A pattern is anchored at the start of a path and ignores case. It is matched against the
//! normal form of a path, which is also what is forwarded. Patterns are compiled once, with a limit
//! on their size, and match in time that is linear in the path. Left out: look-around and
//! back-references, which such matching cannot offer.

use regex::bytes::{Regex, RegexBuilder};

use crate::template::Captures;

/// Bytes that a compiled pattern may have, and its cache for matching.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A path as a regular expression.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

/// A path is no regular expression that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadPattern(String);

impl Pattern {
    pub(crate) fn new(path: &str) -> Result<Pattern, BadPattern> {
        let mut builder = RegexBuilder::new(&format!("^(?:{path})"));
        builder.case_insensitive(true).unicode(false);
        builder.size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        // Groups that are not closed, or closed twice, must not be completed by what is around it.
        Regex::new(path)
            .map_err(|error| BadPattern::of(&error))
            .and_then(|_| builder.build().map(Pattern).map_err(|error| BadPattern::of(&error)))
    }

    /// What is certain of the paths that a text would match if it were a pattern: the part before
    /// the first character that means something else than itself.
    pub(crate) fn certain_start(path: &str) -> &str {
        let end = path.find(|c: char| !c.is_ascii_alphanumeric() && !"/-_~%".contains(c));
        let Some(end) = end else { return path };
        // A repetition or an alternative changes what stands before it.
        let changes_before = |c: char| "?*+{|".contains(c);
        if path[end..].contains('|') {
            return "/";
        }
        let before =
            if path[end..].starts_with(changes_before) { end.saturating_sub(1) } else { end };
        &path[..before]
    }

    pub(crate) fn is_match(&self, path: &str) -> bool {
        self.0.is_match(path.as_bytes())
    }

    /// What the pattern's groups match of a path, all of the match first.
    pub(crate) fn captures<'p>(&self, path: &'p str) -> Captures<'p> {
        let Some(found) = self.0.captures(path.as_bytes()) else { return Captures::new() };
        let text = |group: Option<regex::bytes::Match<'_>>| {
            group.and_then(|group| path.get(group.range())).unwrap_or_default()
        };
        found.iter().map(text).collect()
    }
}

impl BadPattern {
    fn of(error: &regex::Error) -> BadPattern {
        BadPattern(match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            // The last line of the message says what; those before show where.
            _ => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
        })
    }
}

/// The paths of a host where they are patterns.
#[derive(Clone, Debug)]
pub(crate) struct PatternTable<T> {
    /// In the order in which they are tried.
    rows: Vec<Row<T>>,
}

#[derive(Clone, Debug)]
struct Row<T> {
    path: Box<str>,
    pattern: Pattern,
    value: T,
}

impl<T> PatternTable<T> {
    pub(crate) fn new() -> PatternTable<T> {
        PatternTable { rows: Vec::new() }
    }

    /// Adds a path; `Err` is what has the same path already.
    pub(crate) fn add(&mut self, path: &str, pattern: Pattern, value: T) -> Result<(), &T> {
        // The longest text first, then by descending text.
        let place = self.rows.binary_search_by(|row| {
            path.len().cmp(&row.path.len()).then_with(|| path.cmp(&*row.path))
        });
        match place {
            Ok(taken) => Err(&self.rows[taken].value),
            Err(at) => {
                self.rows.insert(at, Row { path: path.into(), pattern, value });
                Ok(())
            }
        }
    }

    /// What belongs to the first pattern that matches.
    pub(crate) fn find(&self, path: &str) -> Option<&T> {
        self.rows.iter().find(|row| row.pattern.is_match(path)).map(|row| &row.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(paths: &[&'static str]) -> PatternTable<&'static str> {
        let mut table = PatternTable::new();
        for path in paths {
            table.add(path, Pattern::new(path).unwrap(), *path).unwrap();
        }
        table
    }

    #[test]
    fn the_first_pattern_wins_and_the_longest_text_is_first() {
        let rows: [(&[&'static str], &str, Option<&str>); 10] = [
            (&["/foo.+", "/foo"], "/foo", Some("/foo")),
            (&["/foo.+", "/foo"], "/foo/bar", Some("/foo.+")),
            (&["/foo/bar/[a-z]{3}", "/foo/bar/bar"], "/foo/bar/bar", Some("/foo/bar/[a-z]{3}")),
            (&["/headers"], "/HEADERS/x", Some("/headers")),
            (&["/[A-Z]{3}"], "/uuid", Some("/[A-Z]{3}")),
            (&["/foo"], "/foobar", Some("/foo")),
            (&["/foo$"], "/foobar", None),
            (&["/", "/a"], "/b", Some("/")),
            (&["/a|/b"], "/b", Some("/a|/b")),
            (&["/b", "/a"], "/c", None),
        ];
        for (paths, path, expected) in rows {
            assert_eq!(table(paths).find(path).copied(), expected, "{paths:?} {path}");
        }
        let same_length = table(&["/a.c", "/abc"]);
        assert_eq!(same_length.find("/abc"), Some(&"/abc"), "descending text");
    }

    #[test]
    fn captures_are_those_of_the_match() {
        let pattern = Pattern::new("/foo(/|$)(.*)").unwrap();
        assert_eq!(pattern.captures("/foo/a/b").to_vec(), ["/foo/a/b", "/", "a/b"]);
        assert_eq!(pattern.captures("/FOO").to_vec(), ["/FOO", "", ""]);
        assert!(pattern.captures("/bar").is_empty());
    }

    #[test]
    fn bad_patterns_are_errors() {
        for (path, says) in [
            ("/a(b", "unclosed group"),
            ("/a)b", "unopened group"),
            ("/a(?!b)", "look-around"),
            (r"/(a)\1", "backreferences"),
            ("/a{1000}{1000}{1000}", "too large"),
        ] {
            let error = Pattern::new(path).unwrap_err().to_string();
            assert!(error.contains(says), "{path}: {error}");
        }
    }

    #[test]
    fn what_a_bad_pattern_would_have_matched() {
        let table = [
            ("/a(b", "/a"),
            ("/api/(?!x).*", "/api/"),
            ("/ab*(", "/a"),
            ("/a.c(", "/a"),
            ("/a(|/b", "/"),
        ];
        for (path, start) in table {
            assert_eq!(Pattern::certain_start(path), start, "{path}");
        }
    }
}
