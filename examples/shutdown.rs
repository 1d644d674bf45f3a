//! The shutdown signal, shared by the examples.

use tokio::signal;

/// Resolves on Ctrl-C, and on SIGTERM, which Docker, Kubernetes and systemd send to stop a service.
///
/// It listens for SIGTERM from this call on, not only from the first poll, so that an early signal
/// does not kill the program.
pub(crate) fn shutdown_signal() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())
        .expect("failed to listen for SIGTERM");
    async move {
        #[cfg(unix)]
        let terminate = terminate.recv();
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        tokio::select! {
            _ = signal::ctrl_c() => {}
            _ = terminate => {}
        }
    }
}
