//! One file per command.

pub(crate) mod deliveries;
pub(crate) mod diagnose;
pub(crate) mod emulate;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod listen;
pub(crate) mod profile;
pub(crate) mod program;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod sign;
pub(crate) mod store;
pub(crate) mod trigger;
pub(crate) mod verify;
pub(crate) mod webhooks;

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::{Failure, Result};

/// Asks for a confirmation, unless `--yes` was given. Without a terminal, --yes is required.
pub(crate) fn confirm(yes: bool, question: &str) -> Result {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("this needs a confirmation").hint("give --yes"));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::because("cannot read the answer", &error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("nothing was done")),
    }
}
