//! Log lines of libraries: limited by kind, because many are caused by clients.
//!
//! Lines that libraries write by the `log` crate, such as those of rustls, are not logged at all
//! (tracing-subscriber is built without `tracing-log`): in JSON they name files of the machine
//! that built the binary, and what matters in them is logged or counted by ourselves.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::log_limit::LogLimit;

/// Our packages: their lines have limits of their own.
const OURS: [&str; 9] =
    ["apiserver", "balance", "daemon", "dns", "feed", "ingress", "model", "proxy", "switchyard"];

/// Limits the lines of each library. Lines of `debug` and `trace` are not limited, because the
/// operator has asked for them.
#[derive(Debug, Default)]
pub(crate) struct LibraryLimit {
    /// By target. There are as many as there are modules that log.
    kinds: Mutex<HashMap<&'static str, &'static LogLimit>>,
}

impl<S: Subscriber> Layer<S> for LibraryLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let (level, target) = (event.metadata().level(), event.metadata().target());
        *level > Level::INFO || is_ours(target) || self.admits(target)
    }
}

impl LibraryLimit {
    fn admits(&self, target: &'static str) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind =
            *kinds.entry(target).or_insert_with(|| Box::leak(Box::new(LogLimit::new(target))));
        drop(kinds);
        kind.admits()
    }
}

fn is_ours(target: &str) -> bool {
    let package = target.split("::").next().unwrap_or_default();
    OURS.contains(&package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_of_a_library_is_limited() {
        let limit = LibraryLimit::default();
        let admitted = |target| (0..100_000).filter(|_| limit.admits(target)).count();
        assert!((5..1000).contains(&admitted("h2::proto")));
        assert!(admitted("hyper::server") >= 5, "each library by itself");
        assert!(is_ours("ingress::listener") && is_ours("switchyard") && !is_ours("h2::proto"));
    }
}
