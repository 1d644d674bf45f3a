//! What a health probe says while the server stops, hangs, and comes back.

use authpi_sdk::{
    handlers::Handlers,
    ledger::Postgres,
    receiver::Receiver,
    signature::{KeyRing, Verifier},
    testing::Fixture,
    worker::Worker,
};

use crate::servers::{postgres::PostgresServer, until};

#[tokio::test]
async fn a_probe_is_ready_exactly_while_postgres_answers() {
    let mut server = PostgresServer::start().await;
    let store = Postgres::connect(&server.url()).await.unwrap();
    let verifier = || Verifier::authpi(KeyRing::new().with("test", "whs_test"));
    let inline = Receiver::inline("inline", verifier(), store.clone(), Handlers::new(())).build().unwrap();
    let inbox = Receiver::inbox("inbox", verifier(), store.clone()).build().unwrap();
    let worker = Worker::new("inbox", store, Handlers::new(())).build().unwrap();
    let ready = async || {
        let (inline, inbox, worker) = tokio::join!(inline.health(), inbox.health(), worker.health());
        [inline.is_ready(), inbox.is_ready(), worker.is_ready()]
    };
    inbox.feed(Fixture::new("user.created").verified()).await;
    assert_eq!(ready().await, [true; 3]);
    assert_eq!(worker.health().await.backlog.unwrap().depth, 1);

    // What a probe said holds for a second.
    let never = || "the probes never became ready again".to_owned();
    let still = || "a server that does not answer is taken for one that does".to_owned();
    let paused = server.pause().await;
    until(still, async || (ready().await == [false; 3]).then_some(())).await;
    drop(paused);
    until(never, async || (ready().await == [true; 3]).then_some(())).await;

    server.stop();
    until(still, async || (ready().await == [false; 3]).then_some(())).await;
    server.start_again().await;
    until(never, async || (ready().await == [true; 3]).then_some(())).await;
}
