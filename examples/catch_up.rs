//! Catches up on missed events, then serves.
//!
//! ```text
//! AUTHPI_KEY_ID=key_… AUTHPI_KEY_SECRET=… AUTHPI_WEBHOOK_ID=wh_… AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example catch_up
//! ```
//!
//! Before it listens, it passes undelivered events from AuthPI's log to its receiver and shows a
//! progress bar. Then it checks every five minutes whether deliveries were missed. `DATA_DIR`
//! (default: the current folder) contains the ledger and the watermark, `LISTEN` is the address
//! (default 127.0.0.1:8080), and `AUTHPI_BASE_URL` selects an emulator instead of AuthPI.

mod shutdown;

use std::{env, error::Error, path::PathBuf, time::Duration};

use authpi_sdk::{
    client::Client,
    event::Event,
    handlers::{Context, Handlers},
    receiver::Receiver,
    reconcile::{FileWatermark, Progress, Reconcile},
    signature::{KeyRing, Secret, Verifier},
    stores::Sqlite,
};
use axum::Router;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{net::TcpListener, sync::watch};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = PathBuf::from(env::var("DATA_DIR").unwrap_or_else(|_| ".".into()));
    let keys = KeyRing::new().with("current", Secret::from_env("AUTHPI_WEBHOOK_SECRET")?);
    // Visible if the program runs in a terminal.
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{bar:40} {percent:>3} % {msg}",
    )?);
    let handlers =
        Handlers::new(bar.clone()).fallback(async |event: Event, cx: Context<ProgressBar>| {
            cx.state()
                .suspend(|| println!("{} {} of {}", event.id(), event.event_type(), event.time()));
            Ok(())
        });
    let ledger = Sqlite::open(data.join("hooks.db")).await?;
    let hook = Receiver::inline("users", Verifier::authpi(keys), ledger, handlers).build()?;

    let shown = bar.clone();
    let reconcile = Reconcile::builder(&Client::from_env()?, &hook, env::var("AUTHPI_WEBHOOK_ID")?)
        .watermark(FileWatermark::new(data.join("users.watermark")))
        .on_progress(move |progress| show(&shown, progress))
        .only_if_missed()
        .build()?;
    // If a missed event is not accepted, the program ends here. If it started to serve, newer
    // deliveries would be handled before that event.
    let report = reconcile.catch_up().await?.into_result()?;
    bar.finish_and_clear();
    if !report.is_complete() {
        eprintln!(
            "events happen faster than they are handled; serving, {} s behind",
            report.progress.lag.as_secs()
        );
    }
    if let Some(begin) = report.not_read_before {
        eprintln!(
            "events before {begin} were not read: the ledger no longer knows which of them were handled"
        );
    }
    println!(
        "caught up: {} events were new, {} known",
        report.progress.new_events(),
        report.progress.duplicates
    );

    let listener =
        TcpListener::bind(env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into())).await?;
    println!(
        "listening on http://{}/hooks/authpi",
        listener.local_addr()?
    );
    let stop_requested = shutdown::shutdown_signal();
    let (stop, stopped) = watch::channel(());
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // Resolves when the sender is dropped.
            let _ = stopped.changed().await;
        }
    };
    let app = Router::new().route_service("/hooks/authpi", hook.clone());
    let server = axum::serve(listener, app).with_graceful_shutdown(until_stopped());
    let every = Duration::from_mins(5);
    let (result, (), ()) = tokio::join!(
        async { server.await },
        reconcile.run(every, until_stopped()),
        async {
            stop_requested.await;
            drop(stop);
        }
    );
    hook.drain().await;
    Ok(result?)
}

/// The bar's length is the time span to catch up with.
fn show(bar: &ProgressBar, progress: &Progress) {
    // The span is not known before the first event.
    if bar.is_finished() || progress.position.is_none() {
        return;
    }
    let behind = u64::try_from(progress.lag.as_millis()).unwrap_or(u64::MAX);
    let length = bar.length().unwrap_or(0).max(behind);
    bar.set_length(length);
    bar.set_position(length - behind);
    let (events, rate, seconds) = (progress.ingested(), progress.rate(), progress.lag.as_secs());
    bar.set_message(format!(
        "{events} events, {rate:.0} a second, {seconds} s behind"
    ));
}
