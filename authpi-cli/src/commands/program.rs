//! Commands about the program itself: shell completions and man pages.

use std::{io, path::PathBuf};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{
    cli::Arguments,
    failure::{Failure, Result},
    output::{self, Output},
};

/// Print the completions for a shell.
#[derive(Args)]
#[command(
    after_help = "Example:\n  authpi completions bash > ~/.local/share/bash-completion/completions/authpi"
)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "authpi", &mut text);
        output::print(&String::from_utf8_lossy(&text))
    }
}

/// Write the man pages into a folder, one per command.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The folder, which must exist
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(&self, output: Output) -> Result {
        clap_mangen::generate_to(Arguments::command(), &self.folder).map_err(
            |error: io::Error| {
                Failure::because(
                    format!("cannot write the man pages into {}", self.folder.display()),
                    &error,
                )
            },
        )?;
        output.note(&format!(
            "wrote the man pages into {}",
            self.folder.display()
        ));
        Ok(())
    }
}
