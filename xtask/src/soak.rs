//! `cargo xtask soak`: runs the crash tests of `tests/it/crash` for longer.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{ValueEnum as _, builder::PossibleValue};

use crate::test::{self, Stopped};

/// Kill a service many times, let processes race for 20,000 events, make its store fail, and check
/// that nothing was lost or handled twice
///
/// The trials are those of `cargo xtask test --only crash`, but longer. Each prints its seed.
/// `--seed` repeats the same events and kills, but not which of two processes is faster.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The number of processes to kill on each store
    #[arg(long, default_value_t = 500, value_name = "N")]
    kills: u32,
    /// The number of events that several processes race for, each delivered three times
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    events: u32,
    /// Use only this store [default: all]
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// The seed of the events and kills [default: a new one for each trial]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Store {
    Sqlite,
    Postgres,
    Redis,
    Nats,
}

pub(crate) fn soak(args: &Args, root: &Path) -> Result<()> {
    let name = args.store.and_then(|store| store.to_possible_value());
    let only = match name.as_ref().map(PossibleValue::get_name) {
        // Its faults are in a module with those of the others.
        Some(store) => vec![
            format!("{}{store}::", test::CRASH),
            format!("{}faults::on_{store}_", test::CRASH),
        ],
        None => vec![test::CRASH.to_owned(), test::DISK.to_owned()],
    };
    let given = [
        ("AUTHPI_CRASH_KILLS", Some(args.kills.to_string())),
        ("AUTHPI_RACE_EVENTS", Some(args.events.to_string())),
        ("AUTHPI_CRASH_SEED", args.seed.map(|seed| seed.to_string())),
    ];
    match test::on_servers(
        root,
        &only,
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?))),
    ) {
        Ok(()) => Ok(()),
        Err(Stopped::Failed(error)) => Err(error),
        Err(Stopped::NotRun(why)) => bail!(why),
    }
}
