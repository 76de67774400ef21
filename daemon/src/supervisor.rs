//! Threads and tasks that the process cannot do without.
//!
//! One that ends, by returning or by a panic, makes the process not live and not ready: `/livez`
//! and `/readyz` say which, [`crate::start`] lets the others drain and the process exits with an
//! error, so that its supervisor starts a new one. It is the same for data threads and for control
//! work, in every process. Ending is expected once the process drains, or after
//! [`SupervisedThread::release`].

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::failure::Failure;
use crate::liveness::Liveness;
use crate::shutdown::Shutdown;

/// Starts threads and tasks. `clone` is cheap.
#[derive(Clone, Debug)]
pub struct Supervisor {
    liveness: Liveness,
    shutdown: Shutdown,
}

/// A thread that must not end before it is released. When this is dropped, the thread continues and
/// stays supervised.
#[derive(Debug)]
pub struct SupervisedThread {
    handle: JoinHandle<()>,
    may_end: Arc<AtomicBool>,
    ended: watch::Receiver<bool>,
}

/// Records that a thread or task has ended, by returning or by a panic.
struct Ended {
    /// The name in messages, such as "data thread tcp-0".
    what: String,
    supervisor: Supervisor,
    may_end: Arc<AtomicBool>,
    ended: watch::Sender<bool>,
}

impl Supervisor {
    pub(crate) fn new(liveness: Liveness, shutdown: Shutdown) -> Supervisor {
        Supervisor { liveness, shutdown }
    }

    /// Starts a thread with this name, of at most 15 characters so that the kernel shows it whole.
    ///
    /// # Errors
    ///
    /// When the kernel refuses another thread.
    pub fn thread(
        &self,
        name: impl Into<String>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<SupervisedThread, Failure> {
        let name = name.into();
        let may_end = Arc::new(AtomicBool::new(false));
        let (sender, ended) = watch::channel(false);
        let (supervisor, expected) = (self.clone(), may_end.clone());
        let (what, failed) = (format!("thread {name}"), format!("cannot start thread {name}"));
        let run = move || {
            let _note = supervisor.note(what, expected, sender);
            body();
        };
        let spawned = std::thread::Builder::new().name(name).spawn(run);
        let handle = spawned.map_err(|error| Failure::failed(failed, error))?;
        Ok(SupervisedThread { handle, may_end, ended })
    }

    /// Starts a task of control work on the current runtime.
    pub fn task<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        tokio::spawn(self.supervised(name, work))
    }

    /// Supervises work from now on, wherever it runs. Dropping the work counts as its end.
    pub fn supervised<F: Future>(
        &self,
        name: &'static str,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let note = self.note(format!("task {name}"), Arc::default(), watch::Sender::new(false));
        async move {
            let _note = note;
            work.await
        }
    }

    fn note(&self, what: String, may_end: Arc<AtomicBool>, ended: watch::Sender<bool>) -> Ended {
        Ended { what, supervisor: self.clone(), may_end, ended }
    }
}

impl SupervisedThread {
    /// From now on, the end of the thread is expected.
    pub fn release(&self) {
        self.may_end.store(true, Ordering::Release);
    }

    /// Resolves when the thread has ended. Cancel safe.
    pub async fn ended(&mut self) {
        // An error means that the thread has ended.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Waits for the thread to end, off any runtime; false if it panicked.
    pub fn join(self) -> bool {
        self.release();
        self.handle.join().is_ok()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        let expected =
            self.may_end.load(Ordering::Acquire) || self.supervisor.shutdown.is_draining();
        if panicked || !expected {
            let how = if panicked { "panicked" } else { "ended" };
            self.supervisor.liveness.fail(format!("{} {how}", self.what));
        }
        self.ended.send_replace(true);
    }
}

/// Runs one poll or call of control work; `None` if it panicked.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).ok()
}

#[cfg(test)]
mod tests {
    use crate::Daemon;

    /// A data thread that ended left `/readyz` at 200 while clients were refused.
    #[tokio::test]
    async fn a_data_thread_that_ends_makes_the_process_neither_live_nor_ready() {
        let bodies: [(fn(), &str); 2] =
            [(|| panic!("for this test"), "panicked"), (|| {}, "ended")];
        for (body, how) in bodies {
            let daemon = Daemon::detached("test", 1);
            let mut thread = daemon.supervisor.thread("tcp-0", body).unwrap();
            thread.ended().await;
            daemon.liveness.failed().await;
            let reason = format!("thread tcp-0 {how}");
            assert_eq!(daemon.liveness.failures(), [&*reason]);
            assert_eq!(daemon.readiness.reasons(), [&*reason]);
        }
    }

    #[tokio::test]
    async fn a_control_task_that_ends_makes_the_process_neither_live_nor_ready() {
        let daemon = Daemon::detached("test", 1);
        let panics = async { panic!("for this test") };
        assert!(daemon.supervisor.task("follower", panics).await.is_err());
        daemon.supervisor.task("hub", async {}).await.unwrap();
        let expected = ["task follower panicked", "task hub ended"];
        assert_eq!(daemon.liveness.failures(), expected);
        assert_eq!(daemon.readiness.reasons(), expected);
    }

    #[tokio::test]
    async fn a_thread_that_was_told_to_end_may_end() {
        let daemon = Daemon::detached("test", 1);
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread =
            daemon.supervisor.thread("told", move || assert!(told.recv().is_err())).unwrap();
        thread.release();
        drop(tell);
        assert!(thread.join());
        daemon.shutdown.begin();
        let mut thread = daemon.supervisor.thread("drains", || {}).unwrap();
        thread.ended().await;
        assert!(daemon.liveness.failures().is_empty());
        // But a panic is always a failure.
        assert!(!daemon.supervisor.thread("panics", || panic!("for this test")).unwrap().join());
        assert_eq!(daemon.liveness.failures(), ["thread panics panicked"]);
    }
}
