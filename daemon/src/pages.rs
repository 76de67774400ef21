//! What `/snapshot` and `/status` of the admin endpoint show.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

type Page = Arc<dyn Fn() -> Value + Send + Sync>;

/// What `/snapshot` and `/status` show. `clone` shares it.
#[derive(Clone, Default)]
pub struct Pages(Arc<Mutex<PageSet>>);

#[derive(Default)]
struct PageSet {
    snapshot: Option<Page>,
    status: Vec<(&'static str, Page)>,
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

    fn lock(&self) -> std::sync::MutexGuard<'_, PageSet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages are called outside the lock: they may take locks of their own.
    pub(crate) fn snapshot(&self) -> Value {
        let page = self.lock().snapshot.clone();
        page.map_or(Value::Null, |page| page())
    }

    /// The members that [`Pages::add_status`] added, as `/status` shows them now.
    pub fn status(&self) -> Map<String, Value> {
        let pages = self.lock().status.clone();
        pages.into_iter().map(|(name, page)| (name.to_owned(), page())).collect()
    }
}
