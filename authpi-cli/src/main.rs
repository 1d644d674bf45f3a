//! The `authpi` program.
//!
//! `cli` lists the commands; each has a file in `commands`. `connect` finds the settings of a call,
//! `output` prints records, `failure` holds what went wrong and the exit code.

#![expect(
    clippy::doc_markdown,
    reason = "the program prints most of these texts as they stand"
)]

mod arguments;
mod captured;
mod cli;
mod commands;
mod connect;
mod failure;
mod files;
mod follow;
mod forward;
mod output;
mod profile;
mod recordings;
#[cfg(test)]
mod reference;
mod secret;
mod stop;
mod store;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    // On the heap: some commands need a lot of memory.
    match Box::pin(cli::Arguments::parse().run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
