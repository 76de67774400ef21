//! Lists: which objects of which version, and the text of the answer in pieces.
//!
//! Pure. The pieces are small, so that a list of 100,000 endpoints neither takes memory for its
//! whole text nor keeps a thread from its other clients.

use std::ops::Bound;
use std::sync::Arc;

use jiff::Timestamp;

use super::entry::Entry;
use super::history::{History, Rewind, Snapshot, VersionError};
use super::query::{Continue, List, ListFrom};
use super::resource::Resource;
use super::selector::Selector;
use super::status::Status;
use super::view::{ListHead, Writer};
use crate::name::ObjectName;

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

/// The objects that answer a list, with what the list says of itself.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) head: ListHead,
    pub(crate) entries: Vec<Arc<Entry>>,
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
    pub(crate) fn of(snapshot: &Snapshot, scope: &Scope, list: &List) -> Page {
        let limit = list.limit;
        let after = match &list.from {
            ListFrom::Continue(token) => Some(&token.after),
            _ => None,
        };
        let mut objects = scope.objects(snapshot, after);
        let limit = limit.unwrap_or(usize::MAX);
        let entries: Vec<_> = objects.by_ref().take(limit).cloned().collect();
        let left = objects.count();
        let last = entries.last().filter(|_| left > 0);
        let token = last.map(|last| {
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
        Page { head, entries }
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

/// The text of a list, in pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    writer: Writer,
    page: Page,
    now: Timestamp,
    /// Items that were written.
    written: usize,
    begun: bool,
    ended: bool,
}

impl Pieces {
    pub(crate) fn new(writer: Writer, page: Page, now: Timestamp) -> Pieces {
        Pieces { writer, page, now, written: 0, begun: false, ended: false }
    }

    /// The next piece, of about `size` bytes or less; `None` after the last.
    pub(crate) fn next(&mut self, size: usize) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut piece = Vec::with_capacity(size.min(self.page.entries.len() * 1024 + 1024));
        if !self.begun {
            self.begun = true;
            piece.extend_from_slice(self.writer.list_head(&self.page.head).as_bytes());
        }
        while piece.len() < size {
            let Some(entry) = self.page.entries.get(self.written) else {
                self.ended = true;
                piece.extend_from_slice(b"]}\n");
                break;
            };
            if self.written > 0 {
                piece.push(b',');
            }
            self.writer.item(entry, self.now, &mut piece);
            self.written += 1;
        }
        Some(piece)
    }

    /// Gives nothing more.
    pub(crate) fn finish(&mut self) {
        self.ended = true;
    }

    /// Whether all of the text was given.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::server::entry::Content;
    use crate::server::history::{Change, Limits};
    use crate::server::query::{Options, Verb};
    use crate::server::view::View;

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
        let page = Page::of(&state(history, resource, &list)?.snapshot(), &scope, &list);
        let writer = Writer::new(resource, View::Whole);
        let mut pieces = Pieces::new(writer, page, Timestamp::UNIX_EPOCH);
        let mut text = Vec::new();
        while let Some(piece) = pieces.next(100) {
            assert!(piece.len() < 1000);
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
