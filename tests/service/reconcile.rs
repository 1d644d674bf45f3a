//! One of several processes that reconcile on one ledger, for the tests of `reconcile` to kill.

use std::{path::Path, time::Duration};

use authpi_sdk::{
    Client,
    event::Event,
    handlers::{Context, Handlers},
    receiver::Receiver,
    reconcile::{FileWatermark, Reconcile},
    signature::Verifier,
    stores::Sqlite,
};

use crate::Result;

/// Long enough to be renewed in time on a busy machine; whoever follows on a process that was
/// killed waits for it to run out.
const LEASE: Duration = Duration::from_secs(2);

/// Reconciles from the AuthPI that the environment names, with ledger and watermark in `folder`.
/// Prints a line for each event that it handles, and one when it has caught up.
pub(crate) async fn run(folder: &Path) -> Result<()> {
    let handlers = Handlers::new(()).fallback(async |event: Event, _: Context<()>| {
        println!("handled {}", event.id());
        Ok(())
    });
    let ledger = Sqlite::open(folder.join("hooks.db")).await?;
    let receiver = Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        ledger,
        handlers,
    )
    .lease(LEASE);
    let receiver = receiver.build()?;
    let reconcile = Reconcile::builder(&Client::from_env()?, &receiver, "wh_1")
        .watermark(FileWatermark::new(folder.join("users.watermark")))
        .lease(LEASE)
        .limit(40)
        .build()?;
    let report = reconcile.catch_up().await?;
    if !report.is_complete() {
        return Err(format!("{report:?}").into());
    }
    println!("caught up");
    Ok(())
}
