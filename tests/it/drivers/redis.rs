//! `Redis`, on a single server and on a cluster.

mod inspect;

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use authpi_sdk::{
    ledger::{Claim, Completion, LeaseStatus, Ledger as _, LedgerErrorKind, Token, conformance},
    stores::Redis,
};
use jiff::Timestamp;
use redis::{
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cmd,
};
use tokio::task::JoinSet;

use super::{
    DIGEST, EVENTS, LEASE, answered, chain, claims_dropped_midway, granted, handled, key, race,
};
use crate::servers::{
    forward::Forwarder,
    redis::{RedisCluster, RedisServer, fresh_prefix},
    until,
};

async fn keys(node: &mut MultiplexedConnection, prefix: &str) -> Vec<Vec<u8>> {
    cmd("KEYS")
        .arg(format!("{prefix}*"))
        .query_async(node)
        .await
        .unwrap()
}

/// Makes the records older, since the server's clock cannot be set.
async fn grow_older(node: &mut MultiplexedConnection, prefix: &str, by: Duration) {
    for key in keys(node, prefix).await {
        let left: i64 = cmd("PTTL").arg(&key).query_async(node).await.unwrap();
        assert!(left != -1, "a record without an end");
        // If the remaining time is negative, PEXPIRE deletes the key.
        let left = left - i64::try_from(by.as_millis()).unwrap();
        cmd("PEXPIRE")
            .arg(&key)
            .arg(left)
            .exec_async(node)
            .await
            .unwrap();
    }
}

/// Each store has its own keys, on any number of nodes.
struct Keys<C> {
    nodes: Vec<MultiplexedConnection>,
    connection: C,
    newest: Mutex<String>,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> conformance::Harness for Keys<C> {
    type Ledger = Redis<C>;

    async fn fresh(&self) -> Redis<C> {
        let prefix = fresh_prefix();
        self.newest.lock().unwrap().clone_from(&prefix);
        Redis::options()
            .prefix(prefix)
            .open(self.connection.clone())
            .await
            .unwrap()
    }

    async fn advance(&self, _: &Redis<C>, by: Duration) {
        let prefix = self.newest.lock().unwrap().clone();
        for node in &self.nodes {
            grow_older(&mut node.clone(), &prefix, by).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let server = RedisServer::shared().await;
    let connection = redis::Client::open(server.url())
        .unwrap()
        .get_connection_manager()
        .await
        .unwrap();
    let nodes = vec![server.connection().await.unwrap()];
    conformance::run(&Keys {
        nodes,
        connection,
        newest: Mutex::default(),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_on_a_cluster_whose_nodes_all_hold_records() {
    let cluster = RedisCluster::start().await;
    let connection = ClusterClient::new(cluster.urls())
        .unwrap()
        .get_async_connection()
        .await
        .unwrap();
    let mut nodes = Vec::new();
    for node in &cluster.nodes {
        nodes.push(node.connection().await.unwrap());
    }
    conformance::run(&Keys {
        nodes: nodes.clone(),
        connection: connection.clone(),
        newest: Mutex::default(),
    })
    .await;

    let prefix = fresh_prefix();
    let ledger = Redis::options()
        .prefix(&prefix)
        .open(connection)
        .await
        .unwrap();
    race(&[ledger.clone(), ledger]).await;
    for node in &mut nodes {
        assert!(
            !keys(node, &prefix).await.is_empty(),
            "a node without records"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_race_one_handles_each_event() {
    let (server, prefix) = (RedisServer::shared().await, fresh_prefix());
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(
            Redis::options()
                .prefix(&prefix)
                .connect(&server.url())
                .await
                .unwrap(),
        );
    }
    race(&replicas).await;
}

#[tokio::test]
async fn records_and_leases_outlive_a_crash_of_a_server_that_writes_at_once() {
    let mut server = RedisServer::start().await;
    let ledger = Redis::connect(&server.url()).await.unwrap();
    handled(&ledger, 0).await;
    let claimed = granted(&ledger, 1).await;

    server.stop();
    let error = ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err();
    assert!(
        chain(&error).starts_with("the ledger failed to claim: "),
        "{}",
        chain(&error)
    );

    // The server has lost the scripts, too.
    server.start_again().await;
    assert_eq!(
        answered(&ledger, 0).await,
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    assert!(matches!(answered(&ledger, 1).await, Claim::InFlight { .. }));
    assert_eq!(
        ledger
            .complete(&key(1), claimed, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(
        answered(&ledger, 1).await,
        Claim::Handled {
            first_digest: DIGEST
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_fails_each_step_in_time_and_can_then_be_used_again() {
    let server = RedisServer::start().await;
    // Only operations that must fail have a short timeout; those that must succeed have the
    // default.
    let patient = Redis::connect(&server.url()).await.unwrap();
    let timeout = Duration::from_millis(300);
    let connect = || async {
        Redis::options()
            .timeout(timeout)
            .connect(&server.url())
            .await
            .ok()
    };
    let ledger = until(|| "the ledger cannot be opened".to_owned(), connect).await;
    let token = granted(&patient, 0).await;

    let paused = server.pause();
    for round in 0..2 {
        let started = Instant::now();
        let mut steps = JoinSet::new();
        for n in 1..=20 {
            let ledger = ledger.clone();
            steps.spawn(async move { ledger.claim(&key(round * 20 + n), DIGEST, LEASE).await });
        }
        for claim in steps.join_all().await {
            let error = chain(&claim.unwrap_err());
            assert!(error.starts_with("the ledger failed to claim: "), "{error}");
        }
        assert!(
            started.elapsed() < timeout * 10,
            "the steps took {:?}",
            started.elapsed()
        );
    }
    drop(paused);

    answered(&ledger, 100).await;
    let completed = || async {
        ledger
            .complete(&key(0), token, Completion::Handled)
            .await
            .ok()
    };
    assert_eq!(
        until(|| "the ledger does not recover".to_owned(), completed).await,
        LeaseStatus::Held
    );
    // A claim that got no response may or may not have taken effect.
    for n in 1..=40 {
        assert!(matches!(
            answered(&patient, n).await,
            Claim::Granted { .. } | Claim::InFlight { .. }
        ));
    }
}

#[tokio::test]
async fn a_connection_that_the_server_ends_is_made_anew() {
    let server = RedisServer::start().await;
    let ledger = Redis::connect(&server.url()).await.unwrap();
    handled(&ledger, 0).await;
    let mut other = server.connection().await.unwrap();
    let ended: i64 = cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .arg("SKIPME")
        .arg("yes")
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(ended, 1);
    // Even the claim that finds the connection closed succeeds: it is repeated on a new connection,
    // since a repeated claim has no further effect.
    assert_eq!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    granted(&ledger, 1).await;
}

#[tokio::test]
async fn a_server_that_lost_its_data_grants_again_and_refuses_old_tokens() {
    let server = RedisServer::start().await;
    let ledger = Redis::connect(&server.url()).await.unwrap();
    let token = granted(&ledger, 0).await;
    let mut other = server.connection().await.unwrap();
    cmd("FLUSHALL").exec_async(&mut other).await.unwrap();
    cmd("SCRIPT")
        .arg("FLUSH")
        .exec_async(&mut other)
        .await
        .unwrap();
    assert_eq!(
        ledger
            .complete(&key(0), token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Lost
    );
    assert_eq!(granted(&ledger, 0).await.attempt, 1);
    assert_eq!(
        ledger.renew(&key(0), token, LEASE).await.unwrap(),
        LeaseStatus::Lost
    );
}

#[tokio::test]
async fn dropped_claims_leave_whole_records_and_a_usable_connection() {
    let server = RedisServer::shared().await;
    let ledger = Redis::options()
        .prefix(fresh_prefix())
        .connect(&server.url())
        .await
        .unwrap();
    claims_dropped_midway(&ledger).await;
}

#[tokio::test]
async fn records_expire_one_retention_after_their_last_lease() {
    let (server, prefix) = (RedisServer::shared().await, fresh_prefix());
    let day = Duration::from_hours(24);
    let ledger = Redis::options()
        .prefix(&prefix)
        .retention(day)
        .connect(&server.url())
        .await
        .unwrap();
    let mut other = server.connection().await.unwrap();
    for n in 0..EVENTS {
        handled(&ledger, n).await;
    }
    granted(&ledger, EVENTS).await;
    // Completed after its lease had expired, before another worker took over.
    let late = granted(&ledger, EVENTS + 1).await;
    grow_older(&mut other, &prefix, LEASE * 2).await;
    assert_eq!(
        ledger
            .complete(&key(EVENTS + 1), late, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    grow_older(&mut other, &prefix, day.checked_sub(LEASE * 2).unwrap()).await;
    assert_eq!(
        keys(&mut other, &prefix).await.len(),
        EVENTS + 2,
        "forgotten too early"
    );
    assert_eq!(granted(&ledger, EVENTS).await.attempt, 2);
    grow_older(&mut other, &prefix, LEASE).await;
    assert_eq!(
        keys(&mut other, &prefix).await.len(),
        1,
        "a finished one stays"
    );
    grow_older(&mut other, &prefix, day).await;
    assert!(
        keys(&mut other, &prefix).await.is_empty(),
        "an abandoned claim stays"
    );
}

#[tokio::test]
async fn a_duplicate_of_a_handled_event_writes_nothing_and_takes_one_command() {
    let server = RedisServer::start().await;
    let ledger = Redis::connect(&server.url()).await.unwrap();
    handled(&ledger, 0).await;
    let mut other = server.connection().await.unwrap();
    let mut reported = async || {
        let reported: String = cmd("INFO")
            .arg("everything")
            .query_async(&mut other)
            .await
            .unwrap();
        let line = |name: &str| {
            reported
                .lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(':')?
                        .split(',')
                        .next()
                })
                .unwrap_or("0")
                .to_owned()
        };
        [
            line("aof_current_size"),
            line("cmdstat_evalsha"),
            line("cmdstat_set"),
        ]
    };
    let before = reported().await;
    for _ in 0..10 {
        assert_eq!(
            ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
            Claim::Handled {
                first_digest: DIGEST
            }
        );
    }
    let after = reported().await;
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);
}

#[tokio::test]
async fn what_others_wrote_under_a_key_is_an_error_and_left_alone() {
    let (server, prefix) = (RedisServer::shared().await, fresh_prefix());
    let ledger = Redis::options()
        .prefix(&prefix)
        .connect(&server.url())
        .await
        .unwrap();
    let mut other = server.connection().await.unwrap();
    for (n, foreign) in ["", "something", "c:", "c:1:2:3:4", "x:1:0:0:00"]
        .into_iter()
        .enumerate()
    {
        let name = format!("{prefix}5:users:evt_{n}");
        cmd("SET")
            .arg(&name)
            .arg(foreign)
            .exec_async(&mut other)
            .await
            .unwrap();
        let error = chain(&ledger.claim(&key(n), DIGEST, LEASE).await.unwrap_err());
        assert!(error.contains("holds a foreign value"), "{error}");
        let token = Token {
            attempt: 1,
            nonce: 1,
        };
        for held in [
            ledger.complete(&key(n), token, Completion::Handled).await,
            ledger.renew(&key(n), token, LEASE).await,
            ledger.release(&key(n), token, LEASE).await,
        ] {
            assert_eq!(held.unwrap(), LeaseStatus::Lost);
        }
        let left: String = cmd("GET").arg(&name).query_async(&mut other).await.unwrap();
        assert_eq!(left, foreign);
    }
    // A handled event in the format of an unreleased version.
    let unreleased = format!("h:00000001:9f86d081884c7d65:2592000000:{}", "a5".repeat(32));
    cmd("SET")
        .arg(format!("{prefix}5:users:evt_8"))
        .arg(&unreleased)
        .exec_async(&mut other)
        .await
        .unwrap();
    let error = chain(&ledger.claim(&key(8), DIGEST, LEASE).await.unwrap_err());
    assert!(
        error.contains("a record of an unreleased authpi-sdk")
            && error.contains("set another prefix"),
        "{error}"
    );
    let left: String = cmd("GET")
        .arg(format!("{prefix}5:users:evt_8"))
        .query_async(&mut other)
        .await
        .unwrap();
    assert_eq!(left, unreleased);
    cmd("SADD")
        .arg(format!("{prefix}5:users:evt_9"))
        .arg("member")
        .exec_async(&mut other)
        .await
        .unwrap();
    let error = chain(&ledger.claim(&key(9), DIGEST, LEASE).await.unwrap_err());
    assert!(
        error.contains("WRONGTYPE") || error.contains("wrong kind"),
        "{error}"
    );
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_without_the_password() {
    let server = RedisServer::shared().await;
    for prefix in [
        "",
        " ",
        "a b",
        "a*",
        "a?",
        "{a}",
        "a\n",
        "über",
        "[a]",
        "a\\",
        &"x".repeat(101),
    ] {
        let connection = server.connection().await.unwrap();
        let error = chain(
            &Redis::options()
                .prefix(prefix)
                .open(connection)
                .await
                .unwrap_err(),
        );
        assert!(
            error.contains("cannot be used as a prefix of keys"),
            "{error}"
        );
    }
    // Port 1 has no listener.
    let timeout = Duration::from_secs(1);
    for url in [
        "redis://:hunter2@127.0.0.1:1",
        "redis://:hunter2@127.0.0.1:99999999",
        "hunter2",
    ] {
        let error = Redis::options()
            .timeout(timeout)
            .connect(url)
            .await
            .unwrap_err();
        assert!(
            !format!("{} {error:?}", chain(&error)).contains("hunter2"),
            "{error:?}"
        );
    }
    let ledger = Redis::options()
        .prefix(fresh_prefix())
        .connect(&server.url())
        .await
        .unwrap();
    assert!(!format!("{ledger:?}").contains("127.0.0.1"), "{ledger:?}");
}

#[tokio::test]
async fn a_server_that_may_not_write_cannot_be_opened() {
    let server = RedisServer::start_with(&["--min-replicas-to-write", "1"]).await;
    let error = Redis::connect(&server.url()).await.unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
    assert!(
        chain(&error).contains("cannot serve") && chain(&error).contains("NOREPLICAS"),
        "{}",
        chain(&error)
    );
}

async fn tell(server: &RedisServer, command: &str) {
    let mut words = command.split(' ');
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command
        .exec_async(&mut server.connection().await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_connection_to_a_server_that_cannot_serve_is_replaced() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let become_replica = format!("REPLICAOF 127.0.0.1 {}", new.address().port());
    let faults = [
        (&*become_replica, "REPLICAOF NO ONE", "READONLY"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "NOREPLICAS",
        ),
    ];
    for (fault, cure, code) in faults {
        let address = Forwarder::to(old.address()).await;
        let url = format!("redis://{}", address.address());
        let ledger = Redis::options()
            .prefix(fresh_prefix())
            .connect(&url)
            .await
            .unwrap();
        let token = granted(&ledger, 0).await;

        // The old server can no longer serve, but the address still leads to it.
        tell(&old, fault).await;
        for _ in 0..3 {
            let error = ledger.claim(&key(1), DIGEST, LEASE).await.unwrap_err();
            assert_eq!(
                error.kind(),
                LedgerErrorKind::CannotWrite,
                "{code}: {}",
                chain(&error)
            );
            let said = chain(&error);
            assert!(
                said.contains(&address.address().to_string()) && said.contains("cannot serve"),
                "{code}: {said}"
            );
            // Its data may be old: no operation may use it.
            let other = Token {
                attempt: 9,
                ..token
            };
            assert!(
                ledger
                    .complete(&key(0), other, Completion::Handled)
                    .await
                    .is_err(),
                "{code}"
            );
            // A server that is out of memory (OOM) still accepts DEL, so only then does `forget`
            // succeed.
            assert_eq!(
                ledger.forget(&key(0)).await.is_err(),
                code != "OOM",
                "{code}"
            );
        }
        address.switch(new.address());
        assert_eq!(granted(&ledger, 1).await.attempt, 1);
        handled(&ledger, 2).await;
        tell(&old, cure).await;
    }
}

#[tokio::test]
async fn after_a_fail_over_an_operation_continues_on_the_new_primary() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let address = Forwarder::to(old.address()).await;
    let ledger = Redis::connect(&format!("redis://{}", address.address()))
        .await
        .unwrap();
    let token = granted(&ledger, 0).await;
    let mut other = new.connection().await.unwrap();
    tell(
        &new,
        &format!("REPLICAOF 127.0.0.1 {}", old.address().port()),
    )
    .await;
    let replicated = || {
        let mut other = other.clone();
        async move { (!keys(&mut other, "authpi:5:users").await.is_empty()).then_some(()) }
    };
    until(|| "the record was not replicated".to_owned(), replicated).await;
    tell(&new, "REPLICAOF NO ONE").await;
    tell(
        &old,
        &format!("REPLICAOF 127.0.0.1 {}", new.address().port()),
    )
    .await;
    address.switch(new.address());
    assert_eq!(
        ledger
            .complete(&key(0), token, Completion::Handled)
            .await
            .unwrap(),
        LeaseStatus::Held
    );
    assert_eq!(keys(&mut other, "authpi:").await.len(), 1);
}

#[tokio::test]
async fn a_connection_to_a_server_that_hangs_is_replaced() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let address = Forwarder::to(old.address()).await;
    let options = Redis::options().timeout(Duration::from_secs(1));
    let ledger = options
        .connect(&format!("redis://{}", address.address()))
        .await
        .unwrap();
    let paused = old.pause();
    let error = chain(&ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err());
    assert!(
        error.contains(&format!(
            "redis at {} did not answer within 1s",
            address.address()
        )),
        "{error}"
    );
    address.switch(new.address());
    assert!(matches!(answered(&ledger, 0).await, Claim::Granted { .. }));
    drop(paused);
}

#[tokio::test]
async fn a_reconnect_that_the_server_refuses_for_a_while_succeeds_later() {
    let server = RedisServer::start().await;
    let mut other = server.connection().await.unwrap();
    let mut set = async |password: &str| {
        let mut set = cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg(password)
            .to_owned();
        set.exec_async(&mut other).await.unwrap();
        // This connection stays, with the permissions that it has.
        set = cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes")
            .to_owned();
        set.query_async::<i64>(&mut other).await.unwrap()
    };
    set("hunter2").await;
    let url = format!("redis://:hunter2@{}", server.address());
    let ledger = Redis::connect(&url).await.unwrap();
    handled(&ledger, 0).await;

    assert_eq!(set("rotated").await, 1);
    for _ in 0..3 {
        let error = chain(&ledger.claim(&key(0), DIGEST, LEASE).await.unwrap_err());
        let expected = format!("could not log in to redis at {}", server.address());
        assert!(
            error.contains(&expected) && !error.contains("hunter2"),
            "{error}"
        );
    }
    set("hunter2").await;
    assert_eq!(
        ledger.claim(&key(0), DIGEST, LEASE).await.unwrap(),
        Claim::Handled {
            first_digest: DIGEST
        }
    );
    handled(&ledger, 1).await;
}

#[tokio::test]
async fn one_node_of_a_cluster_and_a_replica_are_refused_at_connect() {
    let cluster = RedisCluster::start().await;
    for url in cluster.urls() {
        let error = Redis::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
        assert!(
            chain(&error).contains("node of a cluster"),
            "{}",
            chain(&error)
        );
    }
    // A replica is refused, even if it does not know the command HELLO.
    for settings in [&[][..], &["--rename-command", "HELLO", ""]] {
        let server = RedisServer::start_with(settings).await;
        Redis::connect(&server.url()).await.unwrap();
        tell(&server, "REPLICAOF 127.0.0.1 1").await;
        let error = Redis::connect(&server.url()).await.unwrap_err();
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
        assert!(
            chain(&error).contains("the server is a replica"),
            "{}",
            chain(&error)
        );
        // A connection provided by the caller, which the ledger cannot replace.
        let error = Redis::open(server.connection().await.unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), LedgerErrorKind::CannotWrite);
        let said = chain(&error);
        assert!(
            said.contains("given to `Redis::open`: replacing it is up to its owner"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_user_who_lacks_a_command_that_any_step_needs_is_refused_at_connect() {
    const NEEDED: [&str; 8] = [
        "set", "del", "eval", "evalsha", "get", "getrange", "setrange", "pttl",
    ];
    let server = RedisServer::start().await;
    let url = format!("redis://worker:hunter2@{}", server.address());
    let allow = async |commands: &[&str]| {
        let commands = commands.join(" +");
        tell(
            &server,
            &format!("ACL SETUSER worker reset on >hunter2 ~authpi:* +{commands}"),
        )
        .await;
    };
    allow(&NEEDED).await;
    let ledger = Redis::connect(&url).await.unwrap();
    handled(&ledger, 0).await;
    assert_eq!(
        ledger.server_time().await.unwrap(),
        None,
        "it may not ask for the time"
    );
    for lacks in NEEDED {
        let others: Vec<_> = NEEDED
            .into_iter()
            .filter(|needed| *needed != lacks)
            .collect();
        allow(&others).await;
        let error = Redis::connect(&url).await.unwrap_err();
        assert_eq!(
            error.kind(),
            LedgerErrorKind::CannotWrite,
            "{lacks}: {}",
            chain(&error)
        );
        assert!(
            chain(&error).contains("denies a command"),
            "{lacks}: {}",
            chain(&error)
        );
    }
    // A user who may not use keys with the ledger's prefix is refused, too.
    allow(&NEEDED).await;
    let error = Redis::options()
        .prefix("other:")
        .connect(&url)
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        LedgerErrorKind::CannotWrite,
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_wrong_host_port_password_or_database_is_named_at_connect() {
    let server = RedisServer::start().await;
    tell(&server, "CONFIG SET requirepass right").await;
    let at = server.address();
    let wrong = [
        // Port 1 has no listener.
        (
            "redis://:hunter2@127.0.0.1:1".to_owned(),
            "could not connect to redis at 127.0.0.1:1".to_owned(),
        ),
        (
            "redis://:hunter2@host.invalid:7000".to_owned(),
            "could not connect to redis at host.invalid:7000".to_owned(),
        ),
        (
            format!("redis://:hunter2@{at}"),
            format!("could not log in to redis at {at}"),
        ),
        (
            format!("redis://hunter2:right@{at}"),
            format!("could not log in to redis at {at}"),
        ),
        (
            format!("redis://{at}"),
            format!("redis at {at} asks for a password"),
        ),
        (
            format!("redis://:right@{at}/99"),
            format!("could not select the database on redis at {at}"),
        ),
    ];
    for (url, expected) in wrong {
        let options = Redis::options().timeout(Duration::from_secs(2));
        let error = options.connect(&url).await.unwrap_err();
        let said = chain(&error);
        assert!(
            said.starts_with(&format!("the ledger failed to open: {expected}")),
            "{url}: {said}"
        );
        assert!(
            !format!("{said} {error:?}").contains("hunter2"),
            "{said} {error:?}"
        );
    }
    Redis::connect(&format!("redis://:right@{at}/1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_servers_clock_is_read() {
    let ledger = Redis::options()
        .prefix(fresh_prefix())
        .connect(&RedisServer::shared().await.url())
        .await
        .unwrap();
    let before = Timestamp::now();
    let at = ledger.server_time().await.unwrap().unwrap();
    // Both read this machine's clock, the server with microseconds.
    let slack = Duration::from_millis(1);
    assert!(
        before - slack <= at && at <= Timestamp::now(),
        "{at} instead of {before}"
    );
}
