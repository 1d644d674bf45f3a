//! Operations per second at a given concurrency, beside the same operations by hand.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{percentile, quick, table};

/// The number of operations in flight, for each comparison.
pub const IN_FLIGHT: [usize; 3] = [1, 8, 64];

type Doing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The operation for one event, with a new number each time. It panics on failure.
#[derive(Clone)]
pub struct Each {
    name: &'static str,
    once: Arc<dyn Fn(usize) -> Doing + Send + Sync>,
}

impl Each {
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        name: &'static str,
        once: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            once: Arc::new(move |n| Box::pin(once(n))),
        }
    }
}

/// The result of one comparison.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub what: &'static str,
    pub in_flight: usize,
    pub by_hand: &'static str,
    /// Medians of the rounds.
    pub per_second: f64,
    pub by_hand_per_second: f64,
    /// The median of the rounds' ratios.
    pub over_by_hand: f64,
    /// The aim, if there is one.
    pub aim: Option<f64>,
}

/// The next unused number, so that no event is used twice.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Ours beside the same by hand, in alternating rounds.
pub async fn compare(
    ours: &Each,
    by_hand: &Each,
    aim: impl Fn(usize) -> Option<f64>,
) -> Vec<Compared> {
    let (rounds, round) = if quick() {
        (3, Duration::from_millis(300))
    } else {
        (9, Duration::from_secs(1))
    };
    let mut compared = Vec::new();
    for in_flight in IN_FLIGHT {
        let sides = [ours, by_hand];
        let mut samples = [Vec::new(), Vec::new()];
        // The first round warms up.
        for n in 0..=rounds {
            for at in [n % 2, (n + 1) % 2] {
                let (done, rate) =
                    run(sides[at], USED.load(Ordering::Relaxed), in_flight, round).await;
                USED.fetch_add(done, Ordering::Relaxed);
                if n > 0 {
                    samples[at].push(rate);
                }
            }
        }
        let mut ratios: Vec<f64> = samples[0]
            .iter()
            .zip(&samples[1])
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        compared.push(Compared {
            what: ours.name,
            in_flight,
            by_hand: by_hand.name,
            per_second: percentile(&mut samples[0], 50),
            by_hand_per_second: percentile(&mut samples[1], 50),
            over_by_hand: percentile(&mut ratios, 50),
            aim: aim(in_flight),
        });
    }
    compared
}

/// Runs until the round's time is over; returns the number of operations, in total and per second.
pub async fn run(each: &Each, first: usize, in_flight: usize, round: Duration) -> (usize, f64) {
    let next = Arc::new(AtomicUsize::new(first));
    let started = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let (each, next) = (each.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                while started.elapsed() < round {
                    (each.once)(next.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("each of them succeeds");
    }
    let done = next.load(Ordering::Relaxed) - first;
    (done, done as f64 / started.elapsed().as_secs_f64())
}

/// All comparisons as text.
pub fn shown(compared: &[Compared]) -> String {
    let head = ["", "in flight", "per second", "by hand", "ratio", "aim"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for one in compared {
        let met = |aim: f64| {
            format!(
                "{aim} ({})",
                if one.over_by_hand >= aim {
                    "met"
                } else {
                    "missed"
                }
            )
        };
        rows.push(vec![
            format!("{}, beside {}", one.what, one.by_hand),
            one.in_flight.to_string(),
            format!("{:.0}", one.per_second),
            format!("{:.0}", one.by_hand_per_second),
            format!("{:.2}", one.over_by_hand),
            one.aim.map_or_else(String::new, met),
        ]);
    }
    table(&rows)
}
