//! How an object of one kind is read: from a manifest's tree, and from an API's JSON.
//!
//! Both give a validated [`Record`]. A manifest may not have unknown fields; an API may, because it
//! can be newer than this program.

use serde::Deserialize;

use crate::object;
use crate::record::Record;
use crate::tree::decode::Finding;
use crate::tree::{NodeId, Tree};
use crate::validate::Check;

/// Reads the objects of one kind. `None`: the object is valid but not used, or the check has an
/// error.
#[derive(Clone, Copy)]
pub struct Reader {
    pub manifest: ReadManifest,
    pub json: ReadJson,
}

type ReadManifest =
    for<'a> fn(&'a Tree<'a>, NodeId, &mut Check<'_>) -> Result<Option<Record>, Vec<Finding>>;
type ReadJson = for<'a> fn(JsonText<'a>, &mut Check<'_>) -> serde_json::Result<Option<Record>>;

/// The JSON of an object.
#[derive(Clone, Copy, Debug)]
pub enum JsonText<'a> {
    /// A line of a watch: `{"type":…,"object":OBJECT}`.
    Line(&'a [u8]),
    Object(&'a [u8]),
}

/// The memory that the members of one object may take while it is decoded. A thousand endpoints
/// with all fields that the API allows take a quarter of it.
const MAX_DECODED: usize = 16 << 20;

#[derive(Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct WatchLine<T> {
    object: T,
}

impl<'a> JsonText<'a> {
    pub(crate) fn parse<T: Deserialize<'a>>(self) -> serde_json::Result<T> {
        object::within(MAX_DECODED, || match self {
            JsonText::Line(line) => {
                serde_json::from_slice(line).map(|line: WatchLine<T>| line.object)
            }
            JsonText::Object(object) => serde_json::from_slice(object),
        })
    }
}

/// The reader of a kind: its trimmed type, and the validation of it.
macro_rules! reader {
    ($object:ident, $validate:path) => {{
        use $crate::reader::{JsonText, Reader};
        use $crate::record::Record;
        use $crate::tree::decode::{Finding, decode};
        use $crate::tree::{NodeId, Tree};
        use $crate::validate::Check;

        fn manifest<'a>(
            tree: &'a Tree<'a>,
            node: NodeId,
            check: &mut Check<'_>,
        ) -> Result<Option<Record>, Vec<Finding>> {
            let object: $object<'a> = decode(tree, node)?;
            Ok($validate(&object, check))
        }
        fn json(text: JsonText<'_>, check: &mut Check<'_>) -> serde_json::Result<Option<Record>> {
            let object: $object<'_> = text.parse()?;
            Ok($validate(&object, check))
        }
        Some(Reader { manifest, json })
    }};
}

pub(crate) use reader;
