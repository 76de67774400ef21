//! What `/snapshot` and `/status` of the admin endpoint show, and the pages that only some
//! processes have.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

type Page = Arc<dyn Fn() -> Value + Send + Sync>;

/// A page that depends on the query part of its target.
type QueryPage = Arc<dyn Fn(&str) -> Result<Value, PageError> + Send + Sync>;

/// Why a page has nothing to show, in a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The query part of the target is wrong: 400.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such thing: 404.
    #[error("{0}")]
    NotFound(String),
}

/// What the admin endpoint shows beside probes and metrics. `clone` shares it.
#[derive(Clone, Default)]
pub struct Pages(Arc<Mutex<PageSet>>);

#[derive(Default)]
struct PageSet {
    snapshot: Option<Page>,
    status: Vec<(&'static str, Page)>,
    more: Vec<(&'static str, QueryPage)>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl Pages {
    /// Sets what `/snapshot` answers: the state that the data path serves, no key material.
    pub fn set_snapshot(&self, page: impl Fn() -> Value + Send + Sync + 'static) {
        self.lock().snapshot = Some(Arc::new(page));
    }

    /// Adds a member to the JSON object that `/status` answers.
    pub fn add_status(&self, name: &'static str, page: impl Fn() -> Value + Send + Sync + 'static) {
        self.lock().status.push((name, Arc::new(page)));
    }

    /// Adds a page. It is given what follows `?` in the target, undecoded, or nothing.
    pub fn add_page(
        &self,
        path: &'static str,
        page: impl Fn(&str) -> Result<Value, PageError> + Send + Sync + 'static,
    ) {
        self.lock().more.push((path, Arc::new(page)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PageSet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages are called outside the lock: they may take locks of their own.
    pub(crate) fn snapshot(&self) -> Value {
        let page = self.lock().snapshot.clone();
        page.map_or(Value::Null, |page| page())
    }

    /// A page that [`Pages::add_page`] added; `None` if there is none with this path.
    pub(crate) fn page(&self, path: &str, query: &str) -> Option<Result<Value, PageError>> {
        let pages = self.lock();
        let page = pages.more.iter().find(|(other, _)| *other == path)?.1.clone();
        drop(pages);
        Some(page(query))
    }

    /// The paths of the pages that [`Pages::add_page`] added.
    pub(crate) fn paths(&self) -> Vec<&'static str> {
        self.lock().more.iter().map(|(path, _)| *path).collect()
    }

    /// The members that [`Pages::add_status`] added, as `/status` shows them now.
    pub fn status(&self) -> Map<String, Value> {
        let pages = self.lock().status.clone();
        pages.into_iter().map(|(name, page)| (name.to_owned(), page())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_one_process_is_found_by_its_path() {
        let pages = Pages::default();
        pages.add_page("/length", |query| match query {
            "" => Err(PageError::BadRequest("write ?TEXT".to_owned())),
            text => Ok(text.len().into()),
        });
        assert_eq!(pages.page("/other", "abc"), None);
        assert_eq!(pages.page("/length", "abc"), Some(Ok(3.into())));
        assert!(matches!(pages.page("/length", ""), Some(Err(PageError::BadRequest(_)))));
        assert_eq!(pages.paths(), ["/length"]);
    }
}
