//! The program's arguments.

use clap::{Parser, Subcommand};

use crate::{
    commands::{
        deliveries, diagnose, emulate, events, faults, listen, profile, program, record, replay,
        sign, store, trigger, verify, webhooks,
    },
    failure::{EXIT_CODES, Result},
    output::Output,
    profile as profiles,
};

/// AuthPI webhooks on the command line: manage them, watch them, and develop receivers without an
/// account or a network.
#[derive(Parser)]
#[command(
    name = "authpi",
    version,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// The profile to use; see `authpi profile`
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "AUTHPI_PROFILE",
        hide_env_values = true
    )]
    profile: Option<String>,

    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    #[command(subcommand)]
    Events(events::Command),
    Listen(listen::Listen),
    Record(record::Record),
    Replay(replay::Replay),
    Sign(sign::Sign),
    Verify(verify::Verify),
    Diagnose(diagnose::Diagnose),
    #[command(subcommand)]
    Store(store::Command),
    Emulate(emulate::Emulate),
    Trigger(trigger::Trigger),
    #[command(subcommand)]
    Faults(faults::Command),
    #[command(subcommand)]
    Profile(profile::Command),
    Completions(program::Completions),
    Man(program::Man),
}

impl Arguments {
    pub(crate) async fn run(self) -> Result {
        let output = self.output;
        profiles::choose(self.profile.filter(|name| !name.is_empty()));
        match self.command {
            Command::Webhooks(webhooks) => webhooks.run(output).await,
            Command::Deliveries(deliveries) => deliveries.run(output).await,
            Command::Events(events) => events.run(output).await,
            Command::Listen(listen) => listen.run(output).await,
            Command::Record(record) => record.run(output).await,
            Command::Replay(replay) => replay.run(output).await,
            Command::Sign(sign) => sign.run(output),
            Command::Verify(verify) => verify.run(output),
            Command::Diagnose(diagnose) => diagnose.run(output),
            Command::Store(store) => store.run(output).await,
            Command::Emulate(emulate) => emulate.run(output).await,
            Command::Trigger(trigger) => trigger.run(output).await,
            Command::Faults(faults) => faults.run(output).await,
            Command::Profile(profile) => profile.run(output),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(output),
        }
    }
}
