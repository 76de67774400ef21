//! A document as a tree of nodes, each with its place in the text.
//!
//! Text → tree → object: YAML ([`yaml`]) and JSON ([`json`]) become the same tree, objects are
//! decoded from it ([`decode`]), and for problems found later, even in validation, line and column
//! are found by the field's path. Nodes live in one vector and strings are borrowed from the text,
//! so that a tree costs little more than reading the text.

pub mod decode;
pub mod json;
mod whole;
pub mod yaml;

use std::borrow::Cow;
use std::fmt;

use crate::problem::Mark;

/// Nodes of one document with its aliases expanded: an EndpointSlice of 1,000 endpoints, as many
/// as the API allows, has 30,000. An alias bomb is refused here.
pub const MAX_NODES: usize = 400_000;

/// The deepest field of any object that Kubernetes has lies 20 levels deep (in a Pod's affinity).
pub const MAX_DEPTH: usize = 64;

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(u32);

#[derive(Debug)]
pub struct Node<'t> {
    pub mark: Mark,
    pub value: Value<'t>,
}

#[derive(Debug)]
pub enum Value<'t> {
    /// A scalar that may be a number, a boolean or null.
    Plain(Cow<'t, str>),
    /// A string, even if it looks like a number or a boolean.
    Quoted(Cow<'t, str>),
    Sequence(Children),
    /// Keys and values, alternating.
    Mapping(Children),
}

/// A range of the tree's child list.
#[derive(Clone, Copy, Debug)]
pub struct Children {
    first: u32,
    count: u32,
}

/// One document.
#[derive(Debug)]
pub struct Tree<'t> {
    nodes: Vec<Node<'t>>,
    children: Vec<NodeId>,
    root: NodeId,
}

/// Why a text cannot be parsed as a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub message: String,
    pub mark: Mark,
}

/// One step of a path to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

impl<'t> Tree<'t> {
    pub fn root(&self) -> NodeId {
        self.root
    }

    pub fn node(&self, id: NodeId) -> &Node<'t> {
        &self.nodes[id.0 as usize]
    }

    fn children(&self, children: Children) -> &[NodeId] {
        &self.children[children.first as usize..][..children.count as usize]
    }

    /// The elements of a sequence; none for any other node.
    pub fn elements(&self, id: NodeId) -> &[NodeId] {
        match self.node(id).value {
            Value::Sequence(children) => self.children(children),
            _ => &[],
        }
    }

    /// Keys and values of a mapping; none for any other node.
    pub fn entries(&self, id: NodeId) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        let children = match self.node(id).value {
            Value::Mapping(children) => self.children(children),
            _ => &[],
        };
        children.chunks_exact(2).map(|pair| (pair[0], pair[1]))
    }

    /// The text of a scalar, unless it is null.
    pub fn scalar(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).value {
            Value::Plain(text) => (!is_null(text)).then_some(text),
            Value::Quoted(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self, id: NodeId) -> bool {
        matches!(&self.node(id).value, Value::Plain(text) if is_null(text))
    }

    pub fn is_mapping(&self, id: NodeId) -> bool {
        matches!(self.node(id).value, Value::Mapping(_))
    }

    /// Key and value of a field of a mapping.
    pub fn entry(&self, id: NodeId, key: &str) -> Option<(NodeId, NodeId)> {
        self.entries(id).find(|(k, _)| self.scalar(*k) == Some(key))
    }

    pub fn field(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.entry(id, key).map(|(_, value)| value)
    }

    /// The place of the field at `path` below `from`, or of its nearest existing parent: for a
    /// missing required field, the place is its parent's key.
    pub fn locate(&self, from: NodeId, path: &[Step]) -> Mark {
        let mut node = from;
        let mut mark = self.node(from).mark;
        for (i, step) in path.iter().enumerate() {
            let found = match step {
                Step::Key(key) => self.entry(node, key),
                Step::Index(index) => self.elements(node).get(*index).map(|id| (*id, *id)),
            };
            let Some((key, value)) = found else { break };
            node = value;
            let whole = i + 1 == path.len() && !self.is_null(value);
            let place = if whole && self.scalar(value).is_some() { value } else { key };
            mark = self.node(place).mark;
        }
        mark
    }

    /// The path from `from` down to a node (a key counts as its value).
    pub fn path_to(&self, from: NodeId, wanted: NodeId) -> Option<Vec<Step>> {
        let mut path = Vec::new();
        self.find(from, wanted, &mut path).then_some(path)
    }

    fn find(&self, node: NodeId, wanted: NodeId, path: &mut Vec<Step>) -> bool {
        if node == wanted {
            return true;
        }
        for (index, element) in self.elements(node).iter().enumerate() {
            path.push(Step::Index(index));
            if self.find(*element, wanted, path) {
                return true;
            }
            path.pop();
        }
        for (key, value) in self.entries(node) {
            path.push(Step::Key(shortened(self.scalar(key).unwrap_or_default())));
            if key == wanted || self.find(value, wanted, path) {
                return true;
            }
            path.pop();
        }
        false
    }
}

/// A key, shortened for messages: all keys of Kubernetes are shorter than this.
pub fn shortened(key: &str) -> String {
    const LONGEST: usize = 320;
    key.chars().take(LONGEST).collect()
}

/// Whether a plain scalar is null, by YAML's core schema.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A path as the API prints it: `spec.ports[0].port`, `data[tls.key]`.
pub struct Path<'a>(pub &'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                // The keys of maps from strings to strings are in brackets.
                Step::Key(key) if key.contains(['.', '/']) => write!(f, "[{key}]")?,
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Builds a tree bottom-up: scalars and finished collections are pushed, and a collection takes
/// what was pushed since it began.
#[derive(Debug, Default)]
struct Builder<'t> {
    nodes: Vec<Node<'t>>,
    children: Vec<NodeId>,
    /// Finished nodes whose parent is still open.
    pending: Vec<NodeId>,
}

impl<'t> Builder<'t> {
    fn add(&mut self, mark: Mark, value: Value<'t>) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("MAX_NODES is below 2^32"));
        self.nodes.push(Node { mark, value });
        id
    }

    /// Moves the nodes that are pending since `from` into the child list.
    fn close(&mut self, from: usize) -> Children {
        let first = u32::try_from(self.children.len()).expect("MAX_NODES is below 2^32");
        self.children.extend(self.pending.drain(from..));
        let count = self.children.len() as u32 - first;
        Children { first, count }
    }

    fn finish(self, root: NodeId) -> Tree<'t> {
        Tree { nodes: self.nodes, children: self.children, root }
    }
}

#[cfg(test)]
mod tests;
