//! The `authpi` program: runs an emulator (`authpi emulate`) and creates events in it (`authpi
//! trigger`).

mod emulate;
mod output;
mod trigger;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};

/// A local AuthPI for development.
#[derive(Parser)]
#[command(name = "authpi", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Emulate(emulate::Emulate),
    Trigger(trigger::Trigger),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Emulate(emulate) => emulate.run().await,
        Command::Trigger(trigger) => trigger.run().await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&reported(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, on one line.
fn reported(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_contradict_nothing() {
        Arguments::command().debug_assert();
    }
}
