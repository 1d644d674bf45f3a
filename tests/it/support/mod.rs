//! Shared by the tests: signed requests, a running worker, a temporary folder, and the log.

pub(crate) mod log;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use authpi_sdk::{
    receiver::Receiver,
    signature::{KeyRing, SignatureScheme, Verifier},
    testing::{Fixture, signed_request},
    worker::Worker,
};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

/// The secret of receivers. [`log::assert_clean`] finds it in texts that must not contain it.
pub(crate) const SECRET: &str = "whs_SECRETSECRETSECRET";

const WORKER_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) fn keys() -> KeyRing {
    KeyRing::new().with("test", SECRET)
}

pub(crate) fn verifier() -> Verifier {
    Verifier::authpi(keys())
}

pub(crate) fn request(fixture: &Fixture) -> Request<Full<Bytes>> {
    fixture
        .request(&SignatureScheme::authpi(), &SECRET.into())
        .unwrap()
}

/// A request with any body.
pub(crate) fn signed(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    signed_request(&SignatureScheme::authpi(), &SECRET.into(), body.into()).unwrap()
}

/// Delivers and returns the status.
pub(crate) async fn deliver(receiver: &Receiver, fixture: &Fixture) -> u16 {
    receiver.receive(request(fixture)).await.status().as_u16()
}

/// A running worker that can be stopped.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(worker: &Worker) -> Self {
        let (stop, stopped) = oneshot::channel();
        let worker = worker.clone();
        Self {
            stop,
            task: tokio::spawn(async move { worker.run(async { drop(stopped.await) }).await }),
        }
    }

    /// Stops it, and waits until it has drained.
    pub(crate) async fn stop(self) {
        self.begin_stop().await;
    }

    /// Stops it. The future waits until it has drained.
    pub(crate) fn begin_stop(self) -> impl Future<Output = ()> {
        self.stop.send(()).unwrap();
        async {
            timeout(WORKER_TIMEOUT, self.task)
                .await
                .expect("the worker did not stop")
                .unwrap();
        }
    }
}

/// A temporary folder, removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("authpi-it-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
