//! `cargo xtask test --repeat N`: builds the test binaries once, and runs them repeatedly.
//!
//! A test that depends on timing fails once in many runs, or only on a busy machine. This finds it
//! before a user does.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{BROWSER, CRASH, DISK, PRISM, Part, STORES, Stopped, system, tests};
use crate::run::{capture, program, succeeds};

/// How often, and under which load.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Build once, then run the test binaries N times: the SDK's unit tests and `it` for the part
    /// `unit` (the default), or `it` for `stores`, `crash` and `browser`
    #[arg(long, value_name = "N")]
    pub(super) repeat: Option<NonZeroU32>,
    /// Keep every core busy with other work
    #[arg(long, requires = "repeat")]
    busy: bool,
    /// Run on one core (Linux: `taskset`)
    #[arg(long, requires = "repeat")]
    one_core: bool,
}

/// A test binary, and which of its tests to run.
struct Binary {
    name: &'static str,
    path: PathBuf,
    /// The working directory that `cargo test` would use.
    folder: PathBuf,
    args: Vec<String>,
}

/// Runs `parts` as specified by `args`.
///
/// # Errors
/// If a part cannot be repeated, a program that it needs is missing, the build fails, or any run
/// fails.
pub(super) fn repeat(args: &Args, times: NonZeroU32, parts: &[Part], root: &Path) -> Result<()> {
    let mut binaries = Vec::new();
    for part in parts {
        binaries.extend(binaries_of(*part, root)?);
    }
    if args.one_core && !succeeds(&mut program(root, "taskset", ["--version"])) {
        bail!("--one-core needs `taskset` (Debian: util-linux)");
    }
    let _load = args.busy.then(Load::on_all_cores);
    let mut failed = 0;
    for run in 1..=times.get() {
        for binary in &binaries {
            let started = Instant::now();
            let output = binary
                .command(root, args.one_core)
                .output()
                .context("a test binary does not start")?;
            let seconds = started.elapsed().as_secs();
            let result = if output.status.success() {
                "passed"
            } else {
                "FAILED"
            };
            println!(
                "run {run} of {times}: {} {result} in {seconds} s",
                binary.name
            );
            if !output.status.success() {
                failed += 1;
                print!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
    let runs = times.get() as usize * binaries.len();
    println!("runs: {} passed; {failed} failed", runs - failed);
    if failed > 0 {
        bail!("{failed} of {runs} runs failed");
    }
    Ok(())
}

/// Builds the binaries of a part.
fn binaries_of(part: Part, root: &Path) -> Result<Vec<Binary>> {
    let skipped = |names: &[&str]| {
        names
            .iter()
            .flat_map(|name| ["--skip".to_owned(), (*name).to_owned()])
            .collect()
    };
    match part {
        Part::Unit => Ok(vec![
            built(root, "authpi_sdk", &["--lib"], Vec::new())?,
            built(
                root,
                "it",
                &["--test", "it"],
                skipped(&[STORES, CRASH, DISK, PRISM, BROWSER]),
            )?,
        ]),
        Part::Stores => Ok(vec![on_servers(root, STORES)?]),
        Part::Crash => Ok(vec![on_servers(root, CRASH)?]),
        Part::Browser => match system::chromium(root) {
            Ok(()) => Ok(vec![built(
                root,
                "it",
                &["--test", "it"],
                vec![BROWSER.to_owned()],
            )?]),
            Err(Stopped::NotRun(why)) => bail!("{why}"),
            Err(Stopped::Failed(error)) => Err(error),
        },
        _ => bail!(
            "only `unit`, `stores`, `crash` and `browser` can be repeated, and not `{}`",
            part.name()
        ),
    }
}

/// The tests with this name prefix, if every server that they need can be started.
fn on_servers(root: &Path, prefix: &str) -> Result<Binary> {
    let missing = system::servers(root, &[prefix.to_owned()]);
    if !missing.is_empty() {
        bail!(
            "{}",
            missing
                .iter()
                .map(|server| &*server.why)
                .collect::<Vec<_>>()
                .join("; ")
        );
    }
    built(root, "it", &["--test", "it"], vec![prefix.to_owned()])
}

/// Builds the test binary of target `name`, which `selection` selects.
fn built(root: &Path, name: &'static str, selection: &[&str], args: Vec<String>) -> Result<Binary> {
    let mut build = tests(root)?;
    build
        .args(["--no-run", "--message-format=json-render-diagnostics"])
        .args(selection);
    let messages = capture(&mut build)?;
    let executable = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name && message["profile"]["test"] == true)
        .find_map(|message| {
            let manifest = message["manifest_path"].as_str()?;
            Some((
                PathBuf::from(message["executable"].as_str()?),
                Path::new(manifest).parent()?.to_owned(),
            ))
        });
    let (path, folder) =
        executable.with_context(|| format!("cargo built no test binary `{name}`"))?;
    Ok(Binary {
        name,
        path,
        folder,
        args,
    })
}

impl Binary {
    fn command(&self, root: &Path, one_core: bool) -> Command {
        let path = self.path.to_string_lossy();
        let mut command = if one_core {
            program(root, "taskset", ["--cpu-list", "0", &path])
        } else {
            program(root, &path, [""; 0])
        };
        command
            .args(&self.args)
            .current_dir(&self.folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// One busy thread per core, until dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn on_all_cores() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(stop)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
