//! Redis with `appendfsync always`, beside `SET NX` and `SET XX`.

use authpi_sdk::stores::Redis;
use benches::rate::{Compared, Each, compare};
use redis::{Client, aio::ConnectionManager, cmd};

use super::{ours, servers::redis::RedisServer};

pub(crate) async fn measure() -> Vec<Compared> {
    let server = RedisServer::start().await;
    let connection = || async {
        let client = Client::open(server.url()).expect("an address");
        ConnectionManager::new(client)
            .await
            .expect("it accepts connections")
    };
    let ledger = Redis::open(connection().await)
        .await
        .expect("the ledger opens");
    compare(
        &ours("Redis: claim + complete", ledger),
        &commands(connection().await),
        |_| Some(0.8),
    )
    .await
}

fn commands(connection: ConnectionManager) -> Each {
    Each::new("SET NX and SET XX", move |n| {
        let mut connection = connection.clone();
        async move {
            let key = format!("by-hand:users:evt_{n:026}");
            let mut claim = cmd("SET");
            claim
                .arg(&key)
                .arg("claimed")
                .arg("NX")
                .arg("PX")
                .arg(30_000);
            let claimed: Option<String> =
                claim.query_async(&mut connection).await.expect("it claims");
            assert!(claimed.is_some());
            let mut complete = cmd("SET");
            complete
                .arg(&key)
                .arg("handled")
                .arg("XX")
                .arg("PX")
                .arg(2_592_000_000_u64);
            let completed: Option<String> = complete
                .query_async(&mut connection)
                .await
                .expect("it completes");
            assert!(completed.is_some());
        }
    })
}
