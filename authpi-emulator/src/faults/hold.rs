//! Attempts that wait for others.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// The attempts that wait. Their time limits are in system time.
pub(crate) struct Holds {
    /// The number of attempts that have ended.
    passed: watch::Sender<u64>,
    burst: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            passed: watch::Sender::new(0),
            burst: Mutex::default(),
        }
    }
}

impl Holds {
    /// An attempt has ended.
    pub(crate) fn passed(&self) {
        self.passed.send_modify(|passed| *passed += 1);
    }

    /// Waits until another attempt has ended, at most this long.
    pub(crate) async fn until_overtaken(&self, at_most: Duration) {
        let mut passed = self.passed.subscribe();
        // Neither a timeout nor the end of the emulator matters.
        let _ = timeout(at_most, passed.changed()).await;
    }

    /// Waits until this number of attempts wait here, at most this long. Then all of them continue.
    pub(crate) async fn until_burst(&self, size: usize, at_most: Duration) {
        let (release, released) = oneshot::channel();
        let is_full = {
            let mut burst = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
            burst.push(release);
            burst.len() >= size
        };
        if is_full || timeout(at_most, released).await.is_err() {
            self.release();
        }
    }

    /// Lets all attempts of a burst continue.
    pub(crate) fn release(&self) {
        let mut burst = self.burst.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in burst.drain(..) {
            // It may have stopped waiting.
            let _ = waiting.send(());
        }
    }
}
