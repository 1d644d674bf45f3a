//! `cargo xtask`: the maintenance tasks of this repository. One file per subcommand; `cargo xtask
//! --help` lists them.

mod bench;
mod codegen;
mod fuzz;
mod run;
mod soak;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Maintenance tasks of the AuthPI Rust SDK.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    Bench(bench::Args),
    Codegen(codegen::Args),
    Fuzz(fuzz::Args),
    Soak(soak::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().job {
        Job::Bench(args) => bench::bench(&args, &repository()),
        Job::Codegen(args) => codegen::run(&args, &repository()),
        Job::Fuzz(args) => fuzz::fuzz(&args, &repository()),
        Job::Soak(args) => soak::soak(&args, &repository()),
        Job::Test(args) => test::test(&args, &repository()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error
                .chain()
                .skip(1)
                .for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

/// The repository's root, where tasks run whatever the current directory.
fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
