//! Several processes on one ledger: one runs at a time, and the next goes on where one was killed.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use authpi_sdk::{
    Client,
    event::Event,
    handlers::{Context, Handlers},
    ledger::Sqlite,
    receiver::Receiver,
    reconcile::{Reconcile, WatermarkFile},
    signature::Verifier,
};

use super::{
    PATIENCE, at,
    log::{Log, event},
};

const REPLICA: &str = "AUTHPI_IT_RECONCILES";
const EVENTS: i64 = 300;
const PROCESSES: usize = 3;
/// So many events are handled before a process is killed; the last one may go to the end.
const LIFE: usize = 60;
const LEASE: Duration = Duration::from_millis(400);

fn process(log: &Log, folder: &Path) -> Child {
    Command::new(env::current_exe().expect("a test knows where it is"))
        .args(["--exact", "reconcile::processes::a_process_reconciles_what_its_environment_says", "--nocapture"])
        .env(REPLICA, folder)
        .env("AUTHPI_BASE_URL", &log.base_url)
        .env("AUTHPI_KEY_ID", "key_1")
        .env("AUTHPI_KEY_SECRET", "secret")
        .env("AUTHPI_ACCOUNT_ID", "acc_1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's own program starts")
}

/// One of the processes; nothing is to be done where nobody started it as one.
#[tokio::test]
async fn a_process_reconciles_what_its_environment_says() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(folder) = env::var(REPLICA) else { return Ok(()) };
    let folder = Path::new(&folder);
    let handlers = Handlers::new(()).otherwise(async |event: Event, _: Context<()>| {
        println!("\nhandled {}", event.id());
        Ok(())
    });
    let ledger = Sqlite::open(folder.join("hooks.db")).await?;
    let receiver = Receiver::inline("users", Verifier::accept_anybody_dangerously(), ledger, handlers).lease(LEASE);
    let receiver = receiver.build()?;
    let reconcile = Reconcile::new(&Client::from_env()?, &receiver, "wh_1")
        .watermark(WatermarkFile::new(folder.join("users.watermark")))
        .lease(LEASE)
        .limit(40)
        .build()?;
    let report = reconcile.catch_up().await?;
    assert!(report.is_complete(), "{report:?}");
    println!("\ncaught up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_are_killed_in_the_midst_of_it_leave_the_rest_to_the_next() {
    let folder = std::env::temp_dir().join(format!("authpi-it-reconcile-processes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let log = Log::of((0..EVENTS).map(|n| event(&format!("evt_{n:03}"), at(n), "user.created", "usr_1"))).await;

    let (tell, told) = mpsc::channel();
    let mut started = 0;
    let mut alive = BTreeMap::new();
    let mut start = |alive: &mut BTreeMap<usize, Child>| {
        let mut child = process(&log, &folder);
        let (number, tell, lines) = (started, tell.clone(), BufReader::new(child.stdout.take().unwrap()).lines());
        started += 1;
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send((number, line))));
        alive.insert(number, child);
    };
    for _ in 0..PROCESSES {
        start(&mut alive);
    }
    let driven = tokio::task::block_in_place(|| {
        let (mut handled, mut turns, mut kills) = (Vec::new(), Vec::<(usize, usize)>::new(), 0);
        let mut ended = 0;
        while ended < PROCESSES {
            let (number, line) = told.recv_timeout(PATIENCE).expect("nobody says anything any more");
            if line == "caught up" {
                let mut done = alive.remove(&number).expect("it was not killed");
                assert!(done.wait().unwrap().success());
                ended += 1;
            } else if let Some(id) = line.strip_prefix("handled ") {
                handled.push(id.to_owned());
                match turns.last_mut() {
                    Some((turn, count)) if *turn == number => *count += 1,
                    _ => turns.push((number, 1)),
                }
                // What it had still said when it was killed comes after that.
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
        (handled, turns, kills)
    });
    let (mut handled, turns, kills) = driven;
    assert!(kills >= 3, "{turns:?}");
    // Nobody came back after another had begun: at no time did two of them run.
    let mut who: Vec<_> = turns.iter().map(|(number, _)| *number).collect();
    who.sort_unstable();
    who.dedup();
    assert_eq!(who.len(), turns.len(), "two ran at the same time: {turns:?}");
    let all = handled.len();
    handled.sort_unstable();
    handled.dedup();
    assert_eq!(handled.len(), usize::try_from(EVENTS).unwrap());
    // Each that was killed may have had one in hand.
    assert!(all <= handled.len() + kills, "{all} times, {kills} kills");
    std::fs::remove_dir_all(folder).unwrap();
}
