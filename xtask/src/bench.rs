//! `cargo xtask bench`: builds the benchmarks in `benches/` in release mode and runs them.

use std::path::Path;

use anyhow::Result;

use crate::run::{cargo, run};

/// Measure the SDK beside other crates and hand-written code; needs a quiet machine.
///
/// Each benchmark prints a table with the CPU and the versions, and writes the same figures as JSON
/// to `target/bench/`. The first run builds the other crates, which takes minutes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this one [default: all, one after the other]
    #[arg(value_enum)]
    which: Option<Which>,
    /// Fewer rounds, for a quick result
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// Verification and parsing beside svix, standardwebhooks, workos and async-stripe-webhook, and
    /// the HMAC alone
    Verify,
    /// A delivery over HTTP beside a bare axum route and a hand-written one
    Receiver,
    /// The memory ledger per event; claim + complete in Postgres, Redis and SQLite beside the same
    /// by hand
    Ledger,
    /// Appends in Postgres and NATS beside the same by hand, and the time from an append to its
    /// handler
    Inbox,
    /// Calls beside bare reqwest and AuthPI's Python SDK, against one emulator
    Client,
    /// Crates and cold build seconds beside svix, workos and async-stripe-webhook
    Build,
}

impl Which {
    const ALL: [Self; 6] = [
        Self::Verify,
        Self::Receiver,
        Self::Ledger,
        Self::Inbox,
        Self::Client,
        Self::Build,
    ];

    const fn program(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Receiver => "receiver",
            Self::Ledger => "ledger",
            Self::Inbox => "inbox",
            Self::Client => "client",
            Self::Build => "cold_build",
        }
    }
}

pub(crate) fn bench(args: &Args, root: &Path) -> Result<()> {
    let own = [
        "--release",
        "--manifest-path",
        "benches/Cargo.toml",
        "--target-dir",
        "target/benches",
        "--locked",
    ];
    // All first, so that nothing is built during a measurement.
    run(&mut cargo(
        root,
        ["build", "--quiet"].into_iter().chain(own),
    ))?;
    for which in Which::ALL
        .into_iter()
        .filter(|which| args.which.is_none_or(|wanted| wanted == *which))
    {
        let program = ["run", "--quiet"]
            .into_iter()
            .chain(own)
            .chain(["--bin", which.program()]);
        let options = args
            .quick
            .then_some(["--", "--quick"])
            .into_iter()
            .flatten();
        run(&mut cargo(root, program.chain(options)))?;
    }
    Ok(())
}
