//! Several processes on one ledger: one runs at a time, and the next continues where a killed one
//! ended.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use super::{
    TEST_TIMEOUT, at,
    log::{Log, event},
};

/// The last message about a process, from its reader.
const ENDED: &str = "ended";
const EVENTS: i64 = 300;
const PROCESSES: usize = 3;
/// The number of events that are handled before a process is killed; the last process may finish.
const LIFE: usize = 60;

fn process(log: &Log, folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_service"))
        .arg("reconcile")
        .arg(folder)
        .env("AUTHPI_BASE_URL", &log.base_url)
        .env("AUTHPI_KEY_ID", "key_1")
        .env("AUTHPI_KEY_SECRET", "secret")
        .env("AUTHPI_ACCOUNT_ID", "acc_1")
        // The process ends when this is dropped.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the service starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_the_rest_to_the_next() {
    let folder = std::env::temp_dir().join(format!(
        "authpi-it-reconcile-processes-{}",
        std::process::id()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let log =
        Log::of((0..EVENTS).map(|n| event(&format!("evt_{n:03}"), at(n), "user.created", "usr_1")))
            .await;

    let (tell, reported) = mpsc::channel();
    let mut started = 0;
    let mut alive = BTreeMap::new();
    let mut start = |alive: &mut BTreeMap<usize, Child>| {
        let mut child = process(&log, &folder);
        let (number, tell, lines) = (
            started,
            tell.clone(),
            BufReader::new(child.stdout.take().unwrap()).lines(),
        );
        started += 1;
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .chain([ENDED.to_owned()])
                .try_for_each(|line| tell.send((number, line)))
        });
        alive.insert(number, child);
    };
    for _ in 0..PROCESSES {
        start(&mut alive);
    }
    let driven = tokio::task::block_in_place(|| {
        let (mut handled, mut turns) = (Vec::new(), Vec::<(usize, usize)>::new());
        let (mut kills, mut lost) = (0, 0);
        let mut ended = 0;
        while ended < PROCESSES {
            let (number, line) = reported
                .recv_timeout(TEST_TIMEOUT)
                .expect("no process prints anything");
            if line == "caught up" {
                let mut done = alive.remove(&number).expect("it was not killed");
                assert!(done.wait().unwrap().success());
                ended += 1;
            } else if line == ENDED {
                // On a very busy machine, a process may lose its lease and end by itself.
                if let Some(mut other) = alive.remove(&number) {
                    assert!(!other.wait().unwrap().success());
                    lost += 1;
                    start(&mut alive);
                }
            } else if let Some(id) = line.strip_prefix("handled ") {
                handled.push(id.to_owned());
                match turns.last_mut() {
                    Some((turn, count)) if *turn == number => *count += 1,
                    _ => turns.push((number, 1)),
                }
                // Lines that a killed process had written may still arrive. It is then no longer in
                // `alive`.
                if turns.last().is_some_and(|(_, count)| *count == LIFE)
                    && let Some(mut killed) = alive.remove(&number)
                {
                    killed.kill().unwrap();
                    killed.wait().unwrap();
                    kills += 1;
                    start(&mut alive);
                }
            }
        }
        (handled, turns, kills, lost)
    });
    let (mut handled, turns, kills, lost) = driven;
    assert!(kills >= 3, "{turns:?}");
    // None continued after another had started: at no time did two run. Only one that lost its
    // lease may still have had an event in progress.
    let mut who: Vec<_> = turns.iter().map(|(number, _)| *number).collect();
    who.sort_unstable();
    who.dedup();
    assert!(
        turns.len() <= who.len() + 2 * lost,
        "two ran at the same time: {turns:?}, {lost} leases lost"
    );
    let all = handled.len();
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled.len(), usize::try_from(EVENTS).unwrap());
    // Each killed process may have had one event in progress.
    assert!(
        all <= handled.len() + kills + lost,
        "{all} times, {kills} kills, {lost} leases lost"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
