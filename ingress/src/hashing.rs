//! Comparing passwords with slow hashes, on threads of their own.
//!
//! A hash like bcrypt takes as long as thousands of requests, so it is never computed on a thread
//! that serves requests, and only a few are computed at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::credentials::{Credentials, Known};

/// Hashes that are computed at once, in the whole process.
const MAX_COMPUTED: usize = 2;

/// Requests that wait for one. More are answered at once.
const MAX_WAITING: usize = 256;

/// The same, for the passwords of one Secret: wrong ones of one Ingress leave room for others.
const MAX_WAITING_EACH: usize = 32;

/// The threads that compute, as a number of permits.
#[derive(Debug)]
pub(crate) struct Hashing {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Too many requests wait for a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Default for Hashing {
    fn default() -> Hashing {
        Hashing { permits: Arc::new(Semaphore::new(MAX_COMPUTED)), waiting: AtomicUsize::new(0) }
    }
}

impl Hashing {
    /// Whether the password is the user's.
    pub(crate) async fn compare(
        &self,
        credentials: &Arc<Credentials>,
        user: &str,
        password: &str,
    ) -> Result<bool, Overloaded> {
        let _own = Waiting::begin(&credentials.waiting, MAX_WAITING_EACH).ok_or(Overloaded)?;
        let _waiting = Waiting::begin(&self.waiting, MAX_WAITING).ok_or(Overloaded)?;
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Overloaded)?;
        // Another request may have asked the same meanwhile.
        match credentials.look_up(user, password) {
            Known::Right => return Ok(true),
            Known::Wrong => return Ok(false),
            Known::Unknown => {}
        }
        let credentials = credentials.clone();
        let (user, password) = (user.to_owned(), password.to_owned());
        let compared = tokio::task::spawn_blocking(move || {
            // Held until it is computed, even if nobody waits for it any longer.
            let _permit = permit;
            credentials.compare(&user, &password)
        });
        compared.await.map_err(|_| Overloaded)
    }
}

/// A request that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn begin(count: &AtomicUsize, limit: usize) -> Option<Waiting<'_>> {
        let waiting = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
