//! What a dry run depends on beside the object and the request.

use std::sync::Arc;

use crate::history::Objects;
use crate::publish::Judge;
use model::Kind;

/// Makes judges: each follows a model of its own.
pub type Judges = Arc<dyn Fn() -> Judge + Send + Sync>;

/// What there is beside the object.
pub(crate) struct Around<'a> {
    /// All objects of a kind.
    pub(crate) objects: &'a dyn Fn(Kind) -> Objects,
    /// The newest version.
    pub(crate) version: u64,
    /// What the object has besides: the annotation that `kubectl apply` and `diff` look for.
    pub(crate) annotation: Option<(&'static str, String)>,
    pub(crate) judges: &'a Judges,
    /// The client may read Secrets.
    pub(crate) secrets: bool,
    pub(crate) now: String,
}
