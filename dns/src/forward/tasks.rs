//! The tasks of one data thread, which are counted: a thread that has none does not run its
//! runtime, so each task that must go on has to be one of these.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, LocalSet};

/// Starts tasks and counts those that have not ended. `clone` shares it.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    local: Rc<LocalSet>,
    count: Rc<Count>,
}

#[derive(Debug, Default)]
struct Count {
    running: Cell<usize>,
    ended: Notify,
}

impl Tasks {
    pub(crate) fn new(local: Rc<LocalSet>) -> Tasks {
        Tasks { local, count: Rc::default() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) -> AbortHandle {
        self.count.running.set(self.count.running.get() + 1);
        let running = Running(self.count.clone());
        let handle = self.local.spawn_local(async move {
            task.await;
            drop(running);
        });
        handle.abort_handle()
    }

    /// Whether no task runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.count.running.get() == 0
    }

    /// Resolves when a task has ended since the last call. For one caller at a time.
    pub(crate) async fn ended(&self) {
        self.count.ended.notified().await;
    }
}

/// Counts a task until it ends or is aborted.
struct Running(Rc<Count>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        self.0.ended.notify_one();
    }
}
