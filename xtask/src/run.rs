//! Runs other programs: in the repository's root, without input, and printing each command first.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// `name` with `args`, to run in `root`.
pub(crate) fn program<A: AsRef<OsStr>>(
    root: &Path,
    name: &str,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(name);
    command.args(args).current_dir(root).stdin(Stdio::null());
    // Variables that cargo set for this program. Build scripts that watch them would run again.
    for (variable, _) in std::env::vars_os() {
        let reported = |prefix: &&str| variable.to_string_lossy().starts_with(*prefix);
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(reported)
        {
            command.env_remove(variable);
        }
    }
    command
}

/// The cargo that started this program, with `args`.
pub(crate) fn cargo<A: AsRef<OsStr>>(root: &Path, args: impl IntoIterator<Item = A>) -> Command {
    program(
        root,
        &std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()),
        args,
    )
}

/// Runs `command` and shows its output.
///
/// # Errors
/// If it cannot be started, or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", line(command));
    let status = command
        .status()
        .with_context(|| format!("`{}` does not start", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs `command` and returns its standard output.
///
/// # Errors
/// If it cannot be started, does not exit with 0, or prints something that is not UTF-8.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("`{}` does not start", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` writes something that is not UTF-8", line(command)))
}

/// Whether `command` can be started and exits with 0; its output is discarded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as typed in a shell.
fn line(command: &Command) -> String {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
