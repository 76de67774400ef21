//! Lists: which objects of which version, and the text of the answer in pieces.
//!
//! Pure. The pieces are small, so that a list of 100,000 endpoints neither takes memory for its
//! whole text nor keeps a thread from its other clients.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use super::entry::Entry;
use super::history::{History, Rewind, Snapshot, VersionError};
use super::query::{Continue, List, ListFrom};
use super::resource::Resource;
use super::selector::Selector;
use super::status::Status;
use super::text::Text;
use super::view::{ListHead, Writer};
use model::ObjectName;

/// Which objects of a resource a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) resource: Resource,
    /// `None`: all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
}

impl Scope {
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        let here = self.namespace.as_deref().is_none_or(|ns| ns == &*entry.name.namespace);
        here && self.selector.matches(entry)
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.namespace.is_none() && self.selector.is_everything()
    }

    /// The objects of a snapshot that the request is about, after one if that is given.
    pub(crate) fn objects<'s>(
        &'s self,
        snapshot: &'s Snapshot,
        after: Option<&ObjectName>,
    ) -> impl Iterator<Item = &'s Arc<Entry>> + 's {
        let first = ObjectName::new(self.namespace.as_deref().unwrap_or_default(), "");
        let start = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        let rest = snapshot.objects.range((start, Bound::Unbounded)).map(|(_, entry)| entry);
        let in_namespace = move |entry: &&Arc<Entry>| {
            self.namespace.as_deref().is_none_or(|ns| ns == &*entry.name.namespace)
        };
        rest.take_while(in_namespace).filter(|entry| self.selector.matches(entry))
    }
}

/// Lists of about this much text are short: their clients want them soon, not small.
const SHORT: usize = 128 << 10;

/// The objects that answer a list, with what the list says of itself. It holds none of them: as
/// long as its client takes, what it costs is its place in a state.
#[derive(Debug)]
pub(crate) struct Page {
    head: ListHead,
    snapshot: Snapshot,
    scope: Scope,
    /// The object before the next one.
    after: Option<ObjectName>,
    /// Objects that are still to come, if there are so many.
    rest: usize,
    is_short: bool,
}

/// The state that a list is about.
///
/// # Errors
///
/// The answer when the version that is asked for is forgotten, or was never reached.
pub(crate) fn state(history: &History, resource: Resource, list: &List) -> Result<Rewind, Status> {
    match &list.from {
        ListFrom::AtLeast(version) if *version > history.version() => {
            Err(Status::future_version(*version, history.version()))
        }
        ListFrom::Exactly(version) => history.at(resource, *version).map_err(list_error),
        ListFrom::Continue(token @ Continue { version: Some(version), .. }) => {
            history.at(resource, *version).map_err(|error| continue_error(error, token))
        }
        _ => Ok(history.current(resource).into()),
    }
}

impl Page {
    /// Chooses the objects of a state.
    pub(crate) fn of(snapshot: Snapshot, scope: Scope, list: &List) -> Page {
        let after = match &list.from {
            ListFrom::Continue(token) => Some(token.after.clone()),
            _ => None,
        };
        let rest = list.limit.unwrap_or(usize::MAX);
        let mut objects = scope.objects(&snapshot, after.as_ref());
        let (mut text, mut last) = (0, None);
        for entry in objects.by_ref().take(rest) {
            text += entry.item().len();
            last = Some(entry);
            // Without a limit nothing else is to be known of the others.
            if text > SHORT && list.limit.is_none() {
                break;
            }
        }
        let left = if list.limit.is_some() { objects.by_ref().count() } else { 0 };
        drop(objects);
        let token = last.filter(|_| left > 0).map(|last| {
            let (version, after) = (Some(snapshot.version), last.name.clone());
            Continue { version, after }.encode()
        });
        // Of a selection a kube-apiserver does not know how much is left, and clients know that.
        let counted = left > 0 && scope.selector.is_everything();
        let head = ListHead {
            version: snapshot.version,
            continue_token: token,
            remaining: counted.then_some(left),
        };
        Page { head, snapshot, scope, after, rest, is_short: text <= SHORT }
    }

    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }
}

fn list_error(error: VersionError) -> Status {
    match error {
        VersionError::TooOld { .. } => Status::expired_list(),
        VersionError::Future { asked, current } => Status::future_version(asked, current),
    }
}

fn continue_error(error: VersionError, token: &Continue) -> Status {
    match error {
        VersionError::TooOld { .. } => {
            let inconsistent = Continue { version: None, after: token.after.clone() };
            Status::expired_continue(inconsistent.encode())
        }
        VersionError::Future { asked, current } => Status::future_version(asked, current),
    }
}

/// The text of a list, in pieces that are made when they are asked for.
#[derive(Debug)]
pub(crate) struct Pieces {
    writer: Writer,
    page: Page,
    now: Timestamp,
    text: Text,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Head,
    First,
    More,
    Ended,
}

impl Pieces {
    pub(crate) fn new(writer: Writer, page: Page, now: Timestamp, text: Text) -> Pieces {
        Pieces { writer, page, now, text, progress: Progress::Head }
    }

    /// The next piece; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.text.next_full() {
            return Some(piece);
        }
        if self.progress == Progress::Head {
            self.text.put(self.writer.list_head(&self.page.head).as_bytes());
            self.progress = Progress::First;
        }
        if self.progress != Progress::Ended {
            self.items();
        }
        self.text.next()
    }

    /// Writes items, and the end after the last.
    fn items(&mut self) {
        let Pieces { writer, page, now, text, progress } = self;
        let mut objects = page.scope.objects(&page.snapshot, page.after.as_ref()).take(page.rest);
        let mut last = None;
        while !text.is_full() {
            let Some(entry) = objects.next() else {
                *progress = Progress::Ended;
                text.put(b"]}\n");
                break;
            };
            if *progress == Progress::More {
                text.put(b",");
            }
            *progress = Progress::More;
            writer.item(entry, *now, text);
            page.rest -= 1;
            last = Some(entry.name.clone());
        }
        drop(objects);
        if last.is_some() {
            page.after = last;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::entry::Content;
    use crate::history::{Change, Limits};
    use crate::query::{Options, Verb};
    use crate::view::View;

    fn put(namespace: &str, name: &str) -> Change {
        let object = json!({"metadata": {"labels": {"app": name}}});
        let name = ObjectName::new(namespace, name);
        Change::Put(Resource::Services, Content::of(Resource::Services, name, object, "u"))
    }

    /// Versions 1 to 4, the newest is 5.
    fn history() -> History {
        let mut history = History::new(0, Limits { events: 0, ..Limits::DEFAULT });
        let names = [("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")];
        history.load(names.map(|(namespace, name)| put(namespace, name)).to_vec(), "");
        history
    }

    fn answer(history: &History, namespace: Option<&str>, query: &str) -> Result<Value, Status> {
        let resource = Resource::Services;
        let options = Options::parse(resource, query)?;
        let Verb::List(list) = options.verb else { panic!("{query} is no list") };
        let namespace = namespace.map(str::to_owned);
        let scope = Scope { resource, namespace, selector: options.selector };
        let page = Page::of(state(history, resource, &list)?.snapshot(), scope, &list);
        let writer = Writer::new(resource, View::Whole);
        let small = Text::in_pieces_of(100);
        let mut pieces = Pieces::new(writer, page, Timestamp::UNIX_EPOCH, small);
        let mut text = Vec::new();
        while let Some(piece) = pieces.next() {
            assert!(piece.len() < 500, "{}", piece.len());
            text.extend(piece);
        }
        Ok(serde_json::from_slice(&text).unwrap())
    }

    fn names(list: &Value) -> String {
        let items = list["items"].as_array().unwrap().iter();
        let name = |item: &Value| {
            let text = |key: &str| item["metadata"][key].as_str().unwrap().to_owned();
            text("namespace") + "/" + &text("name")
        };
        items.map(name).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(namespace: Option<&str>, query: &str, expected: &str) {
        let list = answer(&history(), namespace, query).unwrap();
        assert_eq!(names(&list), expected, "{query}");
    }

    #[test]
    fn lists_hold_what_was_asked_for() {
        check(None, "", "a/x a/y b/x c/z");
        check(Some("a"), "", "a/x a/y");
        check(Some("aa"), "", "");
        check(None, "labelSelector=app=x", "a/x b/x");
        check(None, "fieldSelector=metadata.namespace!=a", "b/x c/z");
        check(None, "limit=1&resourceVersion=0", "a/x");
        let empty = answer(&history(), Some("none"), "").unwrap();
        let metadata = json!({"resourceVersion": "5"});
        let kind = "ServiceList";
        let expected = json!({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": []});
        assert_eq!(empty, expected);
    }

    #[test]
    fn pages_are_of_one_version_while_it_is_known() {
        let mut history = history();
        let first = answer(&history, None, "limit=2").unwrap();
        assert_eq!(names(&first), "a/x a/y");
        assert_eq!(first["metadata"]["remainingItemCount"], 2);
        let token = first["metadata"]["continue"].as_str().unwrap();
        let gone = Change::Delete(Resource::Services, ObjectName::new("b", "x"));
        history.commit(vec![gone, put("b", "new")], "", Duration::ZERO);
        let second = answer(&history, None, &format!("limit=1&continue={token}")).unwrap();
        assert_eq!(names(&second), "b/x", "it was there when the list began");
        assert_eq!(second["metadata"]["resourceVersion"], "5");
        assert_eq!(second["metadata"]["remainingItemCount"], 1);
        let rest = second["metadata"]["continue"].as_str().unwrap();
        let last = answer(&history, None, &format!("limit=1&continue={rest}")).unwrap();
        assert_eq!(names(&last), "c/z");
        assert_eq!(last["metadata"], json!({"resourceVersion": "5"}));

        history.commit(vec![put("d", "new")], "", Duration::from_secs(1000));
        let status = answer(&history, None, &format!("continue={token}")).unwrap_err();
        assert_eq!(status.code().as_u16(), 410);
        let status: Value = serde_json::from_str(&status.to_json()).unwrap();
        assert_eq!(status["reason"], "Expired");
        let token = status["metadata"]["continue"].as_str().unwrap();
        let rest = answer(&history, None, &format!("continue={token}")).unwrap();
        assert_eq!(names(&rest), "b/new c/z d/new");
    }

    #[test]
    fn a_selection_does_not_say_how_much_is_left() {
        let list = answer(&history(), None, "limit=1&labelSelector=app=x").unwrap();
        assert!(list["metadata"]["continue"].is_string());
        assert_eq!(list["metadata"].get("remainingItemCount"), None);
    }

    #[test]
    fn versions_out_of_reach() {
        let history = history();
        let code = |query: &str| answer(&history, None, query).unwrap_err().code().as_u16();
        assert_eq!(code("resourceVersion=999999"), 504);
        assert_eq!(code("resourceVersion=1&resourceVersionMatch=Exact"), 410);
        assert_eq!(code("resourceVersion=9&resourceVersionMatch=Exact"), 504);
        assert!(answer(&history, None, "resourceVersion=5&resourceVersionMatch=Exact").is_ok());
        assert!(answer(&history, None, "resourceVersion=1").is_ok());
    }
}
