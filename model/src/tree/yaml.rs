//! YAML text → tree, by the events of `saphyr-parser`.
//!
//! Aliases share their anchor's node, so an alias bomb costs no memory; its expanded size is known
//! before it is expanded. Merge keys (`<<`) are applied, as `kubectl` does.

use std::borrow::Cow;
use std::collections::HashSet;

use foldhash::fast::RandomState;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Builder, Children, MAX_DEPTH, MAX_NODES, NodeId, SyntaxError, Tree, Value};
use crate::problem::Mark;

/// Reads the only document of a text; `None` when it is empty.
///
/// # Errors
///
/// When the text is no YAML, or exceeds a limit.
pub fn read(text: &str) -> Result<Option<Tree<'_>>, SyntaxError> {
    check_flow(text)?;
    let max_text = ALIASED_TEXT + text.len().saturating_mul(ALIASED_TEXTS);
    let mut reader = Reader { max_text, ..Reader::default() };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| scan_error(&error))?;
        reader.event(event, &span)?;
    }
    Ok(reader.root.map(|root| reader.builder.finish(root)))
}

/// Brackets, braces and commas of one document. The parser holds all tokens of a flow collection
/// in memory until it ends, some 500 bytes for each of these.
const MAX_FLOW: usize = 200_000;

/// Bytes of text that aliases may add to a document: this many, and as many times its own length.
/// Whoever writes a tree out copies the text of an anchor for each of its aliases.
const ALIASED_TEXT: usize = 64 << 10;
const ALIASED_TEXTS: usize = 10;

/// How large a part of a document is with its aliases expanded.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    /// Bytes of scalars.
    text: usize,
}

impl Size {
    fn since(self, before: Size) -> Size {
        Size { nodes: self.nodes - before.nodes, text: self.text - before.text }
    }
}

fn check_flow(text: &str) -> Result<(), SyntaxError> {
    let flow = text.bytes().filter(|byte| matches!(byte, b'[' | b'{' | b',')).count();
    if flow <= MAX_FLOW {
        return Ok(());
    }
    let message = format!("more than {MAX_FLOW} brackets, braces and commas: use block style");
    Err(error(&message, Mark::default()))
}

#[derive(Default)]
struct Reader<'t> {
    builder: Builder<'t>,
    open: Vec<Open>,
    /// By anchor number: the finished node, and what it expands to.
    anchors: Vec<Option<(NodeId, Size)>>,
    /// What was read so far, with aliases expanded.
    expanded: Size,
    max_text: usize,
    root: Option<NodeId>,
    merges: bool,
}

/// A collection whose end has not been seen.
struct Open {
    mark: Mark,
    anchor: usize,
    mapping: bool,
    /// Where its children begin in the builder's pending nodes.
    first_child: usize,
    expanded_before: Size,
    merges_outside: bool,
}

impl<'t> Reader<'t> {
    fn event(&mut self, event: Event<'t>, span: &Span) -> Result<(), SyntaxError> {
        let mark = mark_of(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let size = Size { nodes: 1, text: text.len() };
                let value = scalar(text, plain, tag.as_deref(), mark)?;
                if let Value::Plain(key) = &value {
                    self.merges |= key == "<<";
                }
                self.count(size, mark)?;
                let id = self.builder.add(mark, value);
                self.finish(id, anchor, size)
            }
            Event::Alias(anchor) => {
                let Some((id, size)) = self.anchors.get(anchor).copied().flatten() else {
                    return Err(error("an alias inside the node that it refers to", mark));
                };
                self.count(size, mark)?;
                self.finish(id, 0, size)
            }
            Event::SequenceStart(anchor, tag) => self.begin(false, anchor, tag.as_deref(), mark),
            Event::MappingStart(anchor, tag) => self.begin(true, anchor, tag.as_deref(), mark),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(error("a second document starts without a line `---`", mark))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, size: Size, mark: Mark) -> Result<(), SyntaxError> {
        self.expanded.nodes = self.expanded.nodes.saturating_add(size.nodes);
        self.expanded.text = self.expanded.text.saturating_add(size.text);
        if self.expanded.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} nodes, aliases expanded: split the file");
            return Err(error(&message, mark));
        }
        if self.expanded.text > self.max_text {
            let message = "more than ten times the text of the document, aliases expanded";
            return Err(error(message, mark));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        mapping: bool,
        anchor: usize,
        tag: Option<&Tag>,
        mark: Mark,
    ) -> Result<(), SyntaxError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(error(&format!("nested deeper than {MAX_DEPTH} levels"), mark));
        }
        check_tag(tag, &["map", "seq"], mark)?;
        self.open.push(Open {
            mark,
            anchor,
            mapping,
            first_child: self.builder.pending.len(),
            expanded_before: self.expanded,
            merges_outside: std::mem::take(&mut self.merges),
        });
        self.count(Size { nodes: 1, text: 0 }, mark)
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let open = self.open.pop().expect("the parser closes only what it opened");
        let merges = std::mem::replace(&mut self.merges, open.merges_outside);
        if open.mapping && merges {
            self.merge(open.first_child)?;
        }
        let children = self.builder.close(open.first_child);
        let value = match open.mapping {
            true => Value::Mapping(children),
            false => Value::Sequence(children),
        };
        let id = self.builder.add(open.mark, value);
        self.finish(id, open.anchor, self.expanded.since(open.expanded_before))
    }

    fn finish(&mut self, id: NodeId, anchor: usize, size: Size) -> Result<(), SyntaxError> {
        if anchor > 0 {
            if self.anchors.len() <= anchor {
                self.anchors.resize(anchor + 1, None);
            }
            self.anchors[anchor] = Some((id, size));
        }
        if self.open.is_empty() {
            self.root = Some(id);
        } else {
            self.builder.pending.push(id);
        }
        Ok(())
    }

    /// Replaces `<<: *base` among the pending entries by the base's entries that are not set.
    /// Linear in the entries of the mapping and of its bases, which count as nodes of the document.
    fn merge(&mut self, first_child: usize) -> Result<(), SyntaxError> {
        let entries = self.builder.pending.split_off(first_child);
        let mut merged = Vec::new();
        let mut bases = Vec::new();
        for pair in entries.chunks_exact(2) {
            if self.is_merge_key(pair[0]) {
                bases.extend(self.bases_of(pair[1])?);
            } else {
                merged.extend(pair);
            }
        }
        // Their text was counted where they are referred to.
        let nodes = bases.iter().map(|base| base.count as usize).sum();
        self.count(Size { nodes, text: 0 }, Mark::default())?;
        let mut set: HashSet<_, RandomState> =
            merged.chunks_exact(2).map(|pair| self.key(pair[0])).collect();
        for base in bases {
            let own = &self.builder.children[base.first as usize..][..base.count as usize];
            for pair in own.chunks_exact(2) {
                if set.insert(self.key(pair[0])) {
                    merged.extend(pair);
                }
            }
        }
        drop(set);
        self.builder.pending.append(&mut merged);
        Ok(())
    }

    fn is_merge_key(&self, key: NodeId) -> bool {
        matches!(&self.builder.nodes[key.0 as usize].value, Value::Plain(text) if text == "<<")
    }

    fn key(&self, key: NodeId) -> Option<&str> {
        match &self.builder.nodes[key.0 as usize].value {
            Value::Plain(text) | Value::Quoted(text) => Some(text),
            _ => None,
        }
    }

    fn bases_of(&self, value: NodeId) -> Result<Vec<Children>, SyntaxError> {
        let node = &self.builder.nodes[value.0 as usize];
        match node.value {
            Value::Mapping(children) => Ok(vec![children]),
            Value::Sequence(list) => {
                let bases = &self.builder.children[list.first as usize..][..list.count as usize];
                bases.iter().map(|base| self.mapping(*base)).collect()
            }
            _ => Err(error("the value of `<<` must be a mapping or a list of mappings", node.mark)),
        }
    }

    fn mapping(&self, id: NodeId) -> Result<Children, SyntaxError> {
        let node = &self.builder.nodes[id.0 as usize];
        match node.value {
            Value::Mapping(children) => Ok(children),
            _ => Err(error("the value of `<<` must be a mapping or a list of mappings", node.mark)),
        }
    }
}

fn scalar<'t>(
    text: Cow<'t, str>,
    plain: bool,
    tag: Option<&Tag>,
    mark: Mark,
) -> Result<Value<'t>, SyntaxError> {
    check_tag(tag, &["str", "int", "bool", "float", "null"], mark)?;
    let string = tag.is_some_and(|tag| tag.suffix == "str");
    Ok(if plain && !string { Value::Plain(text) } else { Value::Quoted(text) })
}

/// Only the tags of the core schema are supported.
fn check_tag(tag: Option<&Tag>, known: &[&str], mark: Mark) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && known.contains(&&*tag.suffix)) => {
            // The message does not contain the tag: in an unquoted `password: !x` it is a Secret's
            // value.
            Err(error("this tag is not supported; quote text that starts with `!`", mark))
        }
        _ => Ok(()),
    }
}

fn mark_of(span: &Span) -> Mark {
    let one_line = span.start.line() == span.end.line();
    let length = if one_line { span.end.col().saturating_sub(span.start.col()) } else { 0 };
    Mark {
        line: span.start.line().saturating_sub(1) as u32,
        column: span.start.col() as u32,
        length: length as u32,
    }
}

fn scan_error(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let mark = Mark {
        line: marker.line().saturating_sub(1) as u32,
        column: marker.col() as u32,
        length: 0,
    };
    SyntaxError { message: format!("not valid YAML: {}", error.info()), mark }
}

fn error(message: &str, mark: Mark) -> SyntaxError {
    SyntaxError { message: message.to_owned(), mark }
}
