//! What the benchmarks share: rounds, percentiles, tables, and the description of the machine.

pub mod rate;

use std::{
    fmt::Write as _,
    hint::black_box,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;

pub mod sqlite;

/// One case: a name, and the operation to measure.
pub struct Case<'a> {
    /// Shown in the table and in the JSON.
    pub name: String,
    /// Called repeatedly; the result only prevents it from being optimized away.
    pub once: Box<dyn FnMut() -> usize + 'a>,
}

impl<'a> Case<'a> {
    /// `once` must succeed, or panic.
    pub fn new(name: impl Into<String>, once: impl FnMut() -> usize + 'a) -> Self {
        Self {
            name: name.into(),
            once: Box::new(once),
        }
    }
}

/// The time of a case, in nanoseconds per operation.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    pub name: String,
    /// The 10th percentile of the rounds: the time without interference.
    pub p10_ns: f64,
    pub median_ns: f64,
}

/// Runs all cases in turn, round after round, so that interference affects them equally.
pub fn interleaved(cases: &mut [Case<'_>], rounds: usize, round: Duration) -> Vec<Taken> {
    let repeats: Vec<u32> = cases.iter_mut().map(|case| repeats(case, round)).collect();
    let mut samples = vec![Vec::with_capacity(rounds); cases.len()];
    for n in 0..rounds {
        // The order rotates.
        for at in 0..repeats.len() {
            let at = (at + n) % repeats.len();
            samples[at].push(per_operation(&mut cases[at], repeats[at]));
        }
    }
    let taken = |(case, mut samples): (&Case<'_>, Vec<f64>)| Taken {
        name: case.name.clone(),
        p10_ns: percentile(&mut samples, 10),
        median_ns: percentile(&mut samples, 50),
    };
    cases.iter().zip(samples).map(taken).collect()
}

fn per_operation(case: &mut Case<'_>, repeats: u32) -> f64 {
    let started = Instant::now();
    for _ in 0..repeats {
        black_box((case.once)());
    }
    started.elapsed().as_nanos() as f64 / f64::from(repeats)
}

/// The number of repetitions per round; warms up the case.
fn repeats(case: &mut Case<'_>, round: Duration) -> u32 {
    let mut repeats = 1;
    loop {
        let taken = per_operation(case, repeats) * f64::from(repeats);
        if taken >= round.as_nanos() as f64 / 2.0 {
            return (f64::from(repeats) * round.as_nanos() as f64 / taken)
                .ceil()
                .max(1.0) as u32;
        }
        repeats *= 2;
    }
}

/// By rank; sorts the samples.
pub fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() - 1) * percent / 100]
}

/// The machine and the versions of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    pub cpu: String,
    pub cores: usize,
    /// CPU features that hashing and parsing use.
    pub features: Vec<String>,
    pub crates: Vec<String>,
    pub quick: bool,
}

impl Made {
    /// Reads the machine, and the versions of `crates` from the lock file of this program.
    pub fn here(crates: &[&str]) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let value = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or("unknown", |(_, value)| value.trim())
                .to_owned()
        };
        let flags = value("flags");
        let wanted = ["sha_ni", "ssse3", "avx2", "avx512f", "vaes"];
        Self {
            cpu: value("model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            features: wanted
                .into_iter()
                .filter(|name| flags.split(' ').any(|flag| flag == *name))
                .map(Into::into)
                .collect(),
            crates: crates
                .iter()
                .map(|name| format!("{name} {}", version(name)))
                .collect(),
            quick: quick(),
        }
    }
}

impl std::fmt::Display for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} ({} cores; {})",
            self.cpu,
            self.cores,
            self.features.join(", ")
        )?;
        writeln!(f, "{}", self.crates.join(", "))?;
        if self.quick {
            writeln!(f, "A quick run: few rounds, for a first look.")
        } else {
            Ok(())
        }
    }
}

fn version(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let mut lines = lock
        .lines()
        .skip_while(|line| *line != format!("name = \"{name}\""));
    lines
        .nth(1)
        .and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .unwrap_or("?")
}

/// Whether `--quick` was given.
pub fn quick() -> bool {
    std::env::args().any(|argument| argument == "--quick")
}

/// Writes `target/bench/<name>.json` in the repository, and prints its path.
pub fn write_json(name: &str, figures: &impl Serialize) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"));
    std::fs::create_dir_all(&folder).expect("target/bench can be made");
    let path = folder.join(name).with_extension("json");
    let json = serde_json::to_string_pretty(figures).expect("figures can be written as JSON");
    std::fs::write(&path, json + "\n").expect("target/bench can be written to");
    println!("Also in target/bench/{name}.json");
}

/// Rows of cells, the first column left-aligned, the others right-aligned.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 {
                write!(text, "{cell:width$}")
            } else {
                write!(text, "  {cell:>width$}")
            };
        }
        text.push('\n');
    }
    text
}
