//! A receiver on a server with limits, for public ports: the number of connections, the time for a
//! request head, and its size. `axum::serve` has none of these limits. This is hyper, which it
//! uses, with its own settings.
//!
//! `docs/security.md` explains each limit. A reverse proxy with these limits is an alternative.

use std::{env, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use authpi_sdk::{
    event::{Event, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
};
use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    signal,
    sync::{Semaphore, watch},
};

/// Further connections wait in the system's queue until one ends.
const MAX_CONNECTIONS: usize = 2000;
/// For a request head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For the head, and for one read of a body.
const MAX_BUFFER: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// The pause when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    let handlers = Handlers::new(()).on(async |event: Event<UserCreated>, _: Context<()>| {
        eprintln!(
            "{} joined",
            event.subject().user_id().unwrap_or("unknown user")
        );
        Ok(())
    });
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let ledger = Sqlite::open(data.join("hooks.db")).await?;
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers)
        .max_unverified_bytes(32 << 20) // of all bodies together, beyond the first 16 KiB of each
        .body_timeout(Duration::from_secs(10))
        .build()?;

    let end = ended()?;
    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!(
        "listening on http://{}/hooks/authpi",
        listener.local_addr()?
    );
    serve(
        listener,
        Router::new().route_service("/hooks/authpi", hook.clone()),
        end,
    )
    .await?;
    hook.drain().await;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    app: Router,
    end: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut server = auto::Builder::new(TokioExecutor::new()).http1_only();
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_HEADERS);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, stopped) = watch::channel(());
    let mut end = pin!(end);
    loop {
        // First the permit, then the connection: others wait in the system's queue.
        let next = async {
            (
                Arc::clone(&connections).acquire_owned().await,
                listener.accept().await,
            )
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut end => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (server, app, mut stopped) = (
            server.clone(),
            TowerToHyperService::new(app.clone()),
            stopped.clone(),
        );
        tokio::spawn(async move {
            let mut connection = pin!(server.serve_connection(TokioIo::new(stream), app));
            tokio::select! {
                // Connection errors are ignored.
                _ = connection.as_mut() => {}
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(permit);
        });
    }
    // Requests in progress are completed.
    stop.send(())?;
    drop(stopped);
    let _ = connections
        .acquire_many(u32::try_from(MAX_CONNECTIONS)?)
        .await?;
    Ok(())
}

/// Resolves on Ctrl-C, and on SIGTERM, which service managers and Kubernetes send to stop a
/// process. It listens from this call on.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = signal::ctrl_c().await;
    })
}
