//! `cargo xtask test`: all tests, from a clean clone with only a Rust toolchain.
//!
//! It consists of named [`Part`]s. Each runs, whatever the result of the previous ones. At the end,
//! a table shows which passed, failed, or could not run, and why. Missing programs are installed
//! where possible (`system.rs`). With `CI=true`, a part that did not run is a failure. `--repeat`
//! finds tests that fail occasionally (`repeat.rs`).

mod budgets;
mod features;
mod graph;
mod ops;
mod package;
mod repeat;
mod system;

use std::{
    collections::BTreeSet,
    env::consts::EXE_SUFFIX,
    fmt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::run::{cargo, program, run};

/// Run all tests, part by part, and print a table of the results
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these parts, such as `--only unit,features`
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    #[command(flatten)]
    repeat: repeat::Args,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Number of crates, their licences, the minimum Rust version
    Budgets,
    /// The description in openapi/, checked by independent validators
    Description,
    /// Unit, documentation and integration tests of the workspace
    Unit,
    /// The stores in Postgres, Redis and NATS, on real servers that are started for the tests
    Stores,
    /// A service whose processes are killed or race, on each store; servers are started for the
    /// tests
    Crash,
    /// A ledger's file on a disk that is full or read-only: a small one, mounted in a namespace
    Disk,
    /// Tests of xtask, mainly of the generator
    Codegen,
    /// Every feature of authpi-sdk alone, and important combinations, without warnings
    Features,
    /// The result of `cargo package`: complete, and it builds
    Package,
    /// The receiver in axum, actix-web, Rocket and other web frameworks, over real HTTP
    Frameworks,
    /// AuthPI's own Python SDK drives the emulator
    Interop,
    /// An independent mock server, which has only the description, accepts every request of the
    /// client
    Prism,
    /// The emulator's inspector page in Chromium
    Browser,
    /// The alerts and the dashboard in ops/, checked by promtool, with the alerts' unit tests
    Ops,
    /// The quickstart example prints the expected outcomes
    Quickstart,
}

/// Why a part did not pass.
pub(crate) enum Stopped {
    /// A check failed.
    Failed(anyhow::Error),
    /// Something is missing, and could not be installed.
    NotRun(String),
}

impl From<anyhow::Error> for Stopped {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

pub(crate) fn test(args: &Args, root: &Path) -> Result<()> {
    if let Some(times) = args.repeat.repeat {
        let parts = if args.only.is_empty() {
            &[Part::Unit][..]
        } else {
            &args.only
        };
        return repeat::repeat(&args.repeat, times, parts, root);
    }
    let wanted = |part: &&Part| args.only.is_empty() || args.only.contains(part);
    let rows: Vec<Row> = Part::value_variants()
        .iter()
        .filter(wanted)
        .map(|part| Row::of(*part, root))
        .collect();

    println!("\n{:<12} {:<8} {:>6}", "part", "result", "time");
    for row in &rows {
        println!("{row}");
    }
    let count = |result| rows.iter().filter(|row| row.result() == result).count();
    let (failed, not_run) = (count(FAILED), count(NOT_RUN));
    println!(
        "parts: {} passed; {failed} failed; {not_run} not run",
        count(PASSED)
    );

    if failed > 0 {
        bail!("{failed} of {} parts failed", rows.len());
    }
    if not_run > 0 && std::env::var("CI").is_ok_and(|ci| ci == "true") {
        bail!(
            "{not_run} of {} parts were not run, and CI=true asks for all",
            rows.len()
        );
    }
    Ok(())
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self, root: &Path) -> Result<(), Stopped> {
        match self {
            Self::Budgets => budgets::hold(root)?,
            Self::Description => interop(root, &["validate_openapi.py"])?,
            Self::Unit => {
                run(tests(root)?.args([
                    "--", "--skip", STORES, "--skip", CRASH, "--skip", DISK, "--skip", PRISM,
                    "--skip", BROWSER,
                ]))?;
            }
            Self::Stores => on_servers(root, &[STORES.to_owned()], [])?,
            Self::Crash => on_servers(root, &[CRASH.to_owned()], [])?,
            Self::Disk => {
                system::small_disk(root)?;
                on_servers(root, &[DISK.to_owned()], [])?;
            }
            Self::Codegen => run(&mut cargo(
                root,
                // Like the alias `cargo xtask`, so that dependencies are built once.
                [
                    "test",
                    "--release",
                    "--manifest-path",
                    "xtask/Cargo.toml",
                    "--target-dir",
                    "target/xtask",
                ],
            ))?,
            Self::Features => features::compile(root)?,
            Self::Package => package::pack(root)?,
            Self::Frameworks => run(&mut cargo(
                root,
                [
                    "test",
                    "--locked",
                    "--manifest-path",
                    "frameworks/Cargo.toml",
                    "--target-dir",
                    "target/frameworks",
                ],
            ))?,
            Self::Interop => {
                // The program as its own tests use it, so that nothing is built twice.
                run(tests(root)?.args(["--no-run", "--test", "program"]))?;
                let authpi = graph::Metadata::read(root)?
                    .target_directory
                    .join(format!("debug/authpi{EXE_SUFFIX}"));
                let authpi = authpi.to_string_lossy();
                let emulate = [
                    "emulate",
                    "--json",
                    "--listen",
                    "127.0.0.1:0",
                    "--retry-delays",
                    "50ms,50ms",
                ];
                interop(root, &[&["agree.py", "--", &authpi], &emulate[..]].concat())?;
            }
            Self::Prism => {
                let prism = system::prism(root, &graph::Metadata::read(root)?.target_directory)?;
                run(tests(root)?
                    .args(["--test", "it", "--", PRISM])
                    .env("AUTHPI_PRISM", prism))?;
            }
            Self::Browser => {
                system::chromium(root)?;
                run(tests(root)?.args(["--test", "it", "--", BROWSER]))?;
            }
            Self::Ops => ops::check(root)?,
            Self::Quickstart => run(&mut cargo(root, ["run", "--example", "quickstart"]))?,
        }
        Ok(())
    }
}

/// The prefix of tests that have their own part.
const STORES: &str = "drivers::";
pub(crate) const CRASH: &str = "crash::";
pub(crate) const DISK: &str = "disk::";
const PRISM: &str = "prism::";
const BROWSER: &str = "inspector::browser::";

/// Runs the integration tests with one of these name prefixes, with these variables, and shows
/// their output. If a server is missing, the tests of the others run.
pub(crate) fn on_servers(
    root: &Path,
    names: &[String],
    variables: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<(), Stopped> {
    let missing = system::servers(root, names);
    let mut test = tests(root)?;
    let left_out: BTreeSet<_> = missing
        .iter()
        .flat_map(|server| &server.tests)
        .copied()
        .collect();
    test.args(["--test", "it", "--"])
        .args(names)
        .envs(variables);
    test.args(left_out.iter().flat_map(|name| ["--skip", name]));
    if names
        .iter()
        .any(|name| name.starts_with(CRASH) || name.starts_with(DISK))
    {
        // The output includes figures and seeds.
        test.arg("--nocapture");
    }
    if missing.is_empty() {
        return Ok(run(&mut test)?);
    }
    let why: Vec<_> = missing.iter().map(|server| &*server.why).collect();
    let left_out: Vec<_> = left_out.into_iter().collect();
    let why = format!(
        "{}; so {} were not run",
        why.join("; "),
        left_out.join(", ")
    );
    match run(&mut test) {
        Ok(()) => Err(Stopped::NotRun(format!("{why}, the others passed"))),
        Err(failed) => Err(Stopped::Failed(failed.context(why))),
    }
}

/// `cargo test` for the workspace. Without OpenSSL, one feature is left out; the part `features`
/// reports that.
fn tests(root: &Path) -> Result<Command> {
    let mut test = cargo(root, ["test", "--workspace"]);
    match system::openssl(root) {
        Ok(()) => test.arg("--all-features"),
        Err(_) => test.arg("--features").arg(
            graph::Metadata::read(root)?
                .features_but("native-tls")
                .join(","),
        ),
    };
    Ok(test)
}

/// One of the Python programs in `tests/interop`.
fn interop(root: &Path, args: &[&str]) -> Result<(), Stopped> {
    system::python(root)?;
    Ok(run(&mut program(
        root,
        "python3",
        [&["tests/interop/run.py"], args].concat(),
    ))?)
}

const PASSED: &str = "passed";
const FAILED: &str = "FAILED";
const NOT_RUN: &str = "NOT RUN";

/// The result of a part.
struct Row {
    part: Part,
    took: Duration,
    end: Result<(), Stopped>,
}

impl Row {
    fn of(part: Part, root: &Path) -> Self {
        println!("\n== {} ==", part.name());
        let started = Instant::now();
        let end = part.run(root);
        let row = Self {
            part,
            took: started.elapsed(),
            end,
        };
        println!("{row}");
        row
    }

    fn result(&self) -> &'static str {
        match self.end {
            Ok(()) => PASSED,
            Err(Stopped::Failed(_)) => FAILED,
            Err(Stopped::NotRun(_)) => NOT_RUN,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<12} {:<8} {:>4} s",
            self.part.name(),
            self.result(),
            self.took.as_secs()
        )?;
        match &self.end {
            Ok(()) => Ok(()),
            Err(Stopped::Failed(error)) => write!(f, "  {error:#}"),
            Err(Stopped::NotRun(why)) => write!(f, "  {why}"),
        }
    }
}
