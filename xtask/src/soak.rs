//! `cargo xtask soak`: the crash tests of `tests/it/crash`, for as long as one likes.

use std::path::Path;

use anyhow::{Result, bail};
use clap::{ValueEnum as _, builder::PossibleValue};

use crate::test::{self, Stopped};

/// Kill a service again and again, let processes race for 20,000 events, let its store fail, and
/// look whether anything was lost or done twice
///
/// The trials are those of `cargo xtask test --only crash`, and longer. Each tells its seed; with
/// `--seed` the same events are sent and the same deaths died, though which process is the faster
/// no seed decides.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many processes are killed on each store
    #[arg(long, default_value_t = 500, value_name = "N")]
    kills: u32,
    /// How many events several processes race for, each delivered three times
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    events: u32,
    /// Only this store [default: all of them]
    #[arg(long, value_enum)]
    store: Option<Store>,
    /// What decides the events and the deaths [default: another one for each trial]
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
