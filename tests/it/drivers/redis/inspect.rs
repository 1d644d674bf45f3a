//! The inspector, as a user that can only read.

use std::sync::Mutex;

use authpi_sdk::{
    ledger::{
        RecordState,
        conformance::{self, inspect::InspectorHarness},
        inspect::{Filter, InspectErrorKind, Inspector as _},
    },
    stores::{Redis, RedisInspector},
};
use redis::{aio::MultiplexedConnection, cmd};

use super::Keys;
use crate::{
    drivers::{granted, handled, key},
    servers::{
        redis::{RedisCluster, RedisServer, fresh_prefix},
        until,
    },
};

/// The URL of a user with these rules.
async fn user(server: &RedisServer, name: &str, rules: &[&str]) -> String {
    cmd("ACL")
        .arg("SETUSER")
        .arg(name)
        .arg(&["reset", "on", ">secret", "~*"])
        .arg(rules)
        .exec_async(&mut server.connection().await.unwrap())
        .await
        .unwrap();
    server
        .url()
        .replace("redis://", &format!("redis://{name}:secret@"))
}

impl InspectorHarness for Keys<MultiplexedConnection> {
    type Inspector = RedisInspector;
    const KEEPS_TIMES: bool = false;

    async fn inspector(&self, _: &Redis<MultiplexedConnection>) -> RedisInspector {
        let server = RedisServer::shared().await;
        let url = user(server, "reader", &["+@read", "+@connection"]).await;
        let prefix = self.newest.lock().unwrap().clone();
        let inspector = Redis::options().prefix(prefix).inspect(&url).await;
        inspector.unwrap().scan(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_that_may_only_read_conforms() {
    let connection = RedisServer::shared().await.connection().await.unwrap();
    conformance::inspect::run(&Keys {
        nodes: vec![connection.clone()],
        connection,
        newest: Mutex::default(),
    })
    .await;
}

#[tokio::test]
async fn without_a_scan_only_single_records_are_read() {
    let (server, prefix) = (RedisServer::shared().await, fresh_prefix());
    let options = || Redis::options().prefix(&prefix);
    handled(&options().connect(&server.url()).await.unwrap(), 0).await;
    let inspector = options().inspect(&server.url()).await.unwrap();
    let view = inspector.get(&key(0)).await.unwrap().unwrap();
    assert_eq!(view.state, RecordState::Handled);
    for error in [
        inspector.endpoints().await.map(drop).unwrap_err(),
        inspector.status("users").await.map(drop).unwrap_err(),
        inspector
            .list(&Filter::new("users"))
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), InspectErrorKind::NeedsScan);
        assert!(error.to_string().contains("allow"), "{error}");
    }
    let inspector = inspector.scan(true);
    assert_eq!(inspector.endpoints().await.unwrap(), ["users"]);
}

#[tokio::test]
async fn a_scan_is_bounded_and_a_list_goes_on() {
    const KEYS: usize = 5_000;
    let server = RedisServer::start().await;
    let mut connection = server.connection().await.unwrap();
    let mut set = redis::pipe();
    for n in 0..KEYS {
        set.set(format!("other:{n}"), "");
    }
    set.exec_async(&mut connection).await.unwrap();
    let ledger = Redis::connect(&server.url()).await.unwrap();
    for n in 0..10 {
        granted(&ledger, n).await;
    }
    let inspector = Redis::inspect(&server.url()).await.unwrap().scan(true);
    let bounded = inspector.clone().scan_limit(1_000);
    for error in [
        bounded.endpoints().await.map(drop).unwrap_err(),
        bounded.status("users").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), InspectErrorKind::ScanLimit, "{error}");
    }
    let status = inspector.status("users").await.unwrap();
    assert_eq!(status.counts.unwrap().claimed, 10);

    let mut filter = Filter::new("users").limit(1);
    let (mut pages, mut listed) = (0, std::collections::BTreeSet::new());
    loop {
        let page = inspector.list(&filter).await.unwrap();
        assert!(!page.newest_first);
        pages += 1;
        listed.extend(page.records.into_iter().map(|view| view.key));
        let Some(next) = page.next else { break };
        filter = filter.before(next);
    }
    assert_eq!(listed.len(), 10);
    assert!(pages > 1, "all keys are on one page");
}

#[tokio::test]
async fn a_replica_can_be_inspected() {
    let (primary, replica) = (RedisServer::start().await, RedisServer::start().await);
    cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(primary.address().port())
        .exec_async(&mut replica.connection().await.unwrap())
        .await
        .unwrap();
    handled(&Redis::connect(&primary.url()).await.unwrap(), 0).await;
    let inspector = Redis::inspect(&replica.url()).await.unwrap().scan(true);
    let replicated = || async { inspector.get(&key(0)).await.ok()? };
    let view = until(|| "the replica does not follow".to_owned(), replicated).await;
    assert_eq!(view.state, RecordState::Handled);
    assert_eq!(inspector.endpoints().await.unwrap(), ["users"]);
}

#[tokio::test]
async fn what_an_inspector_cannot_read_is_an_error_with_its_cause() {
    let (server, prefix) = (RedisServer::start().await, fresh_prefix());
    let options = || Redis::options().prefix(&prefix);
    let inspector = options().inspect(&server.url()).await.unwrap();
    cmd("SET")
        .arg(format!("{prefix}5:users:evt_0"))
        .arg("foreign")
        .exec_async(&mut server.connection().await.unwrap())
        .await
        .unwrap();
    let error = inspector.get(&key(0)).await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::Incompatible);
    assert!(error.to_string().contains("set a prefix"), "{error}");

    let url = user(&server, "blind", &["+@connection", "+get"]).await;
    let inspector = options().inspect(&url).await.unwrap();
    let error = inspector.get(&key(0)).await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::Denied);
    assert!(error.to_string().contains("PTTL"), "{error}");

    let cluster = RedisCluster::start().await;
    let error = Redis::inspect(&cluster.nodes[0].url()).await.map(drop);
    assert_eq!(error.unwrap_err().kind(), InspectErrorKind::Incompatible);
}
