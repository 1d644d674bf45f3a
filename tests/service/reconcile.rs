//! One of several processes that reconcile on one ledger, killed by the tests of `reconcile`.

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

/// Long enough to be renewed in time on a busy machine; the successor of a killed process waits
/// until it expires.
const LEASE: Duration = Duration::from_secs(2);

/// Reconciles with the AuthPI in the environment, with ledger and watermark in `folder`. Prints a
/// line for each handled event, and one when it has caught up.
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
