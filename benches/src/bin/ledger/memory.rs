//! The cost of the memory ledger per remembered event: bytes, and the time of a claim and its
//! completion for different numbers of events.

use std::{hint::black_box, time::Instant};

use authpi_sdk::{
    ledger::{Claim, Completion, Digest, EventKey, LeaseStatus, Ledger},
    stores::Memory,
};
use benches::{quick, table};
use serde::Serialize;

use super::{LEASE, key};

#[derive(Serialize)]
pub(crate) struct Remembered {
    ids: usize,
    /// The growth of the process, divided by the number of ids of 30 bytes.
    bytes_per_id: f64,
    /// The claim and completion of a new event, with this number of others.
    cycle_ns: f64,
    /// A claim of a handled event.
    duplicate_ns: f64,
}

/// Whether this process measures one size for another process.
pub(crate) fn is_asked() -> bool {
    std::env::args().any(|argument| argument == "remember")
}

pub(crate) fn answer() {
    let ids = std::env::args()
        .next_back()
        .and_then(|ids| ids.parse().ok())
        .expect("a number");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    println!(
        "{}",
        serde_json::to_string(&runtime.block_on(remember(ids))).expect("figures")
    );
}

pub(crate) fn measure() -> Vec<Remembered> {
    // One process per size, since freed memory would be reused for the next.
    let sizes = if quick() { 3..=6 } else { 3..=7 };
    let mut cells = vec![
        ["ids", "bytes each", "claim + complete ns", "duplicate ns"]
            .map(String::from)
            .to_vec(),
    ];
    let mut memory = Vec::new();
    for ids in sizes.map(|exponent| 10_usize.pow(exponent)) {
        let mut program =
            std::process::Command::new(std::env::current_exe().expect("this program"));
        let output = program
            .args(["remember", &ids.to_string()])
            .output()
            .expect("this program runs");
        let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("figures");
        let figure = |name: &str| figures[name].as_f64().expect("a number");
        let remembered = Remembered {
            ids,
            bytes_per_id: figure("bytes_per_id"),
            cycle_ns: figure("cycle_ns"),
            duplicate_ns: figure("duplicate_ns"),
        };
        cells.push(vec![
            ids.to_string(),
            format!("{:.0}", remembered.bytes_per_id),
            format!("{:.0}", remembered.cycle_ns),
            format!("{:.0}", remembered.duplicate_ns),
        ]);
        memory.push(remembered);
    }
    println!("{}", table(&cells));
    memory
}

const TIMED: usize = 20_000;

async fn remember(ids: usize) -> Remembered {
    let ledger = Memory::new().with_capacity(ids + TIMED);
    let before = resident();
    for n in 0..ids {
        handle(&ledger, &key(n)).await;
    }
    let bytes_per_id = resident().saturating_sub(before) as f64 / ids as f64;

    let keys: Vec<_> = (ids..ids + TIMED).map(key).collect();
    let started = Instant::now();
    for key in &keys {
        handle(&ledger, key).await;
    }
    let cycle_ns = started.elapsed().as_nanos() as f64 / TIMED as f64;

    // Spread over all remembered ids.
    let keys: Vec<_> = (0..TIMED).map(|n| key(n * 7919 % ids)).collect();
    let started = Instant::now();
    for key in &keys {
        let claim = ledger.claim(key, Digest::from_bytes([0; 16]), LEASE).await;
        assert!(matches!(black_box(claim), Ok(Claim::Handled { .. })));
    }
    let duplicate_ns = started.elapsed().as_nanos() as f64 / TIMED as f64;
    Remembered {
        ids,
        bytes_per_id,
        cycle_ns,
        duplicate_ns,
    }
}

async fn handle(ledger: &Memory, key: &EventKey) {
    let claim = ledger
        .claim(key, Digest::from_bytes([0; 16]), LEASE)
        .await
        .expect("memory");
    let Claim::Granted { token, .. } = claim else {
        panic!("not granted")
    };
    assert_eq!(
        ledger
            .complete(key, token, Completion::Handled)
            .await
            .expect("memory"),
        LeaseStatus::Held
    );
}

/// The process's resident memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process on Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("its resident memory");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .expect("a number")
        * 1024
}
