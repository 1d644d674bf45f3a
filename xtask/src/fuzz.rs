//! `cargo xtask fuzz`: runs the SDK with random input.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::run::{program, run, succeeds};

/// Run the verifier and the event parsers with random input; needs cargo-fuzz and nightly Rust
///
/// Failing inputs are kept in fuzz/artifacts/, with the command that repeats them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this target [default: each in turn]
    #[arg(value_enum)]
    which: Option<Target>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Verification of deliveries
    Delivery,
    /// Parsing of events and their payloads
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
    // The name `cargo` is rustup's, which understands `+nightly`.
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
        // New inputs are written to the first folder, which is not committed. The second folder has
        // the initial ones.
        let folders =
            ["corpus", "seeds"].map(|kind| root.join("fuzz").join(kind).join(target.name()));
        std::fs::create_dir_all(&folders[0])?;
        fuzz.args(folders.iter().filter(|folder| folder.exists()))
            .args(["--", &limit]);
        run(&mut fuzz)?;
    }
    Ok(())
}
