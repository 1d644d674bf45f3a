//! `cargo xtask fuzz`: feeds the SDK what nobody would send on purpose.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::run::{program, run, succeeds};

/// Feed the SDK's readers random input, each for a while; needs cargo-fuzz and a nightly Rust
///
/// Whatever makes one fail is kept in fuzz/artifacts/, with the command that repeats it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this one [default: each in turn]
    #[arg(value_enum)]
    which: Option<Target>,
    /// How long each runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Verification of deliveries
    Delivery,
    /// Reading of events and their payloads
    Event,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Event => "event",
        }
    }
}

pub(crate) fn fuzz(args: &Args, root: &Path) -> Result<()> {
    // By the name `cargo`, which is rustup's and so understands `+nightly`.
    ensure!(
        succeeds(&mut program(
            root,
            "cargo",
            ["+nightly", "fuzz", "--version"]
        )),
        "cargo-fuzz or a nightly Rust is missing: `cargo install cargo-fuzz`, `rustup toolchain install nightly`"
    );
    let targets = <Target as clap::ValueEnum>::value_variants();
    for target in targets
        .iter()
        .filter(|target| args.which.is_none_or(|which| which == **target))
    {
        let limit = format!("-max_total_time={}", args.seconds);
        let mut fuzz = program(root, "cargo", ["+nightly", "fuzz", "run", target.name()]);
        // What it finds goes into the first folder, and is not committed; what it begins with lies
        // in the second.
        let folders =
            ["corpus", "seeds"].map(|kind| root.join("fuzz").join(kind).join(target.name()));
        std::fs::create_dir_all(&folders[0])?;
        fuzz.args(folders.iter().filter(|folder| folder.exists()))
            .args(["--", &limit]);
        run(&mut fuzz)?;
    }
    Ok(())
}
