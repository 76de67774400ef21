//! Bytes of a list as they arrive → its objects, one at a time, and its metadata.
//!
//! A page of 500 large EndpointSlices is 150 MB of JSON, and a decoded tree of it several times
//! that, so a page is never held whole: this scanner finds where an element of `items` begins
//! and ends, and only that one is kept. It checks no more of the JSON than it needs for that;
//! each object is checked when it is decoded.

/// A part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// The value of the list's `metadata`.
    Metadata(&'a [u8]),
    /// An element of `items`.
    Item(&'a [u8]),
    /// The beginning of an element that is longer than the limit.
    TooLong(&'a [u8]),
}

#[derive(Debug)]
pub(crate) struct Page {
    limit: usize,
    depth: u32,
    string: InString,
    /// The key at the top level whose value is being read, or the key so far.
    key: Vec<u8>,
    /// At the top level: a string here would be a key.
    key_follows: bool,
    /// A part began and has not ended: what was seen of it in earlier chunks.
    held: Vec<u8>,
    inside: Option<Inside>,
    begun: bool,
    has_items: bool,
    is_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InString {
    No,
    Yes,
    /// After a backslash.
    Escaped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Metadata,
    Item,
}

/// Longer keys at the top level are none that matter.
const MAX_KEY: usize = 64;
const KEPT_CAPACITY: usize = 1 << 20;

impl Page {
    pub(crate) fn new(limit: usize) -> Page {
        Page {
            limit,
            depth: 0,
            string: InString::No,
            key: Vec::new(),
            key_follows: false,
            held: Vec::new(),
            inside: None,
            begun: false,
            has_items: false,
            is_empty: true,
        }
    }

    /// Whether the page has ended: its braces are closed.
    pub(crate) fn is_complete(&self) -> bool {
        self.begun && self.depth == 0
    }

    /// Whether it is a list at all: a Table or a Status has no `items`, and is not to be taken
    /// for a list without objects.
    pub(crate) fn has_items(&self) -> bool {
        self.has_items
    }

    /// Whether no object came.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Passes on each part that the chunk completes.
    pub(crate) fn push(&mut self, chunk: &[u8], mut each: impl FnMut(Part<'_>)) {
        // Where the current part begins in this chunk; parts of earlier chunks are held.
        let mut start = 0;
        let mut at = 0;
        while at < chunk.len() {
            if self.string != InString::No {
                at = self.skip_string(chunk, at);
                continue;
            }
            let Some(offset) = next_structural(&chunk[at..]) else { break };
            at += offset;
            match chunk[at] {
                b'"' => self.begin_string(),
                b'{' | b'[' if self.open(chunk[at]) => start = at,
                b'}' | b']' => {
                    if let Some(inside) = self.close() {
                        self.pass(inside, &chunk[start..=at], &mut each);
                    }
                }
                b',' if self.depth == 1 => self.key_follows = true,
                b':' if self.depth == 1 => {
                    self.key_follows = false;
                    self.has_items |= self.key == b"items";
                }
                _ => {}
            }
            at += 1;
        }
        if self.inside.is_some() {
            let room = (self.limit + 1).saturating_sub(self.held.len());
            let rest = &chunk[start.min(chunk.len())..];
            self.held.extend_from_slice(&rest[..rest.len().min(room)]);
        }
    }

    fn begin_string(&mut self) {
        self.string = InString::Yes;
        if self.depth == 1 && self.key_follows {
            self.key.clear();
        }
    }

    /// Reads on inside a string; the place after what was read.
    fn skip_string(&mut self, chunk: &[u8], from: usize) -> usize {
        if self.string == InString::Escaped {
            self.string = InString::Yes;
            return from + 1;
        }
        let end = memchr::memchr2(b'"', b'\\', &chunk[from..]).map_or(chunk.len(), |n| from + n);
        if self.depth == 1 && self.key_follows && self.key.len() < MAX_KEY {
            self.key.extend_from_slice(&chunk[from..end]);
        }
        match chunk.get(end) {
            Some(b'"') => self.string = InString::No,
            Some(_) => self.string = InString::Escaped,
            None => return end,
        }
        end + 1
    }

    /// Enters an object or array; whether a part begins here.
    fn open(&mut self, bracket: u8) -> bool {
        self.depth += 1;
        self.begun = true;
        if self.depth == 1 {
            self.key_follows = true;
        }
        self.is_empty &= !(self.depth == 3 && self.key == b"items");
        let part = match (self.depth, &*self.key, bracket) {
            (2, b"metadata", b'{') => Inside::Metadata,
            (3, b"items", b'{') => Inside::Item,
            _ => return false,
        };
        self.inside = Some(part);
        self.held.clear();
        true
    }

    /// Leaves an object or array; the part that ends with it.
    fn close(&mut self) -> Option<Inside> {
        self.depth = self.depth.saturating_sub(1);
        match (self.depth, self.inside) {
            (1, Some(Inside::Metadata)) | (2, Some(Inside::Item)) => self.inside.take(),
            _ => None,
        }
    }

    fn pass(&mut self, inside: Inside, rest: &[u8], each: &mut impl FnMut(Part<'_>)) {
        let mut held = std::mem::take(&mut self.held);
        let part = if held.is_empty() {
            rest
        } else {
            let room = (self.limit + 1).saturating_sub(held.len());
            held.extend_from_slice(&rest[..rest.len().min(room)]);
            &held
        };
        each(match inside {
            _ if part.len() > self.limit => Part::TooLong(&part[..self.limit]),
            Inside::Metadata => Part::Metadata(part),
            Inside::Item => Part::Item(part),
        });
        held.clear();
        held.shrink_to(KEPT_CAPACITY);
        self.held = held;
    }
}

fn next_structural(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|b| matches!(b, b'"' | b'{' | b'[' | b'}' | b']' | b',' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(limit: usize, chunks: &[&[u8]]) -> (Vec<String>, bool) {
        let mut page = Page::new(limit);
        let mut found = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for chunk in chunks {
            page.push(chunk, |part| {
                found.push(match part {
                    Part::Metadata(bytes) => format!("M{}", text(bytes)),
                    Part::Item(bytes) => format!("I{}", text(bytes)),
                    Part::TooLong(bytes) => format!("L{}", text(bytes)),
                });
            });
        }
        (found, page.is_complete())
    }

    #[test]
    fn the_parts_of_a_page() {
        let table: [(&str, &[&str], bool); 12] = [
            (
                r#"{"kind":"L","metadata":{"a":"1"},"items":[{"x":1},{"y":{"z":[{}]}}]}"#,
                &[r#"M{"a":"1"}"#, r#"I{"x":1}"#, r#"I{"y":{"z":[{}]}}"#],
                true,
            ),
            (r#"{"items":[{}],"metadata":{}}"#, &["I{}", "M{}"], true),
            (r#" { "items" : [ { } , { } ] } "#, &["I{ }", "I{ }"], true),
            (r#"{"items":null}"#, &[], true),
            (r#"{"items":[]}"#, &[], true),
            (
                r#"{"items":[{"metadata":{"items":[{}]}}]}"#,
                &[r#"I{"metadata":{"items":[{}]}}"#],
                true,
            ),
            (r#"{"items":[{"s":"}]\"{\\"},{}]}"#, &[r#"I{"s":"}]\"{\\"}"#, "I{}"], true),
            (r#"{"other":{"items":[{}]},"items":[{}]}"#, &["I{}"], true),
            (r#"{"a":"items","b":[{}]}"#, &[], true),
            (r#"{"items":[{},"#, &["I{}"], false),
            ("", &[], false),
            ("]]]}}}", &[], false),
        ];
        for (text, expected, complete) in table {
            let expected: Vec<_> = expected.iter().map(|part| part.to_string()).collect();
            assert_eq!(parts(99, &[text.as_bytes()]), (expected.clone(), complete), "{text}");
            let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(parts(99, &bytes), (expected, complete), "{text} byte by byte");
        }
    }

    #[test]
    fn a_part_beyond_the_limit_is_cut_and_the_next_one_is_whole() {
        let text = r#"{"items":[{"a":"xxxxxxxxxxxxxxxxxxxx"},{"b":1}]}"#;
        let expected = vec![r#"L{"a":"xxxx"#.to_owned(), r#"I{"b":1}"#.to_owned()];
        for size in 1..text.len() {
            let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
            assert_eq!(parts(10, &chunks), (expected.clone(), true), "chunks of {size}");
        }
    }
}
