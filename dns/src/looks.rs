//! When the files that this process follows are read again.

use std::time::Duration;

use tokio::sync::watch;

/// How often a file is read.
const LOOK: Duration = Duration::from_secs(2);

/// The moments at which a file is read again: every two seconds, and when the operator asks for it
/// with SIGHUP.
#[derive(Debug)]
pub(crate) struct Looks {
    reloads: Option<watch::Receiver<u64>>,
}

impl Looks {
    pub(crate) fn new(reloads: watch::Receiver<u64>) -> Looks {
        Looks { reloads: Some(reloads) }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let reload = async {
            match &mut self.reloads {
                Some(reloads) => reloads.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let is_open = tokio::select! {
            is_open = reload => is_open,
            () = tokio::time::sleep(LOOK) => true,
        };
        if !is_open {
            self.reloads = None;
        }
    }
}
