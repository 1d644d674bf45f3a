//! Starting and stopping.

use std::{io::ErrorKind, time::Duration};

use authpi_emulator::Emulator;
use reqwest::Method;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use super::{
    Authpi,
    endpoint::{Endpoint, Reply},
};

#[tokio::test]
async fn it_stops_soon_even_with_open_connections_and_receivers_that_hang() {
    let (authpi, endpoint) = (Authpi::start().await, Endpoint::start().await);
    let (id, _) = authpi.webhook(&endpoint.url, &["user.created"]).await;
    authpi.emulator.trigger("user.created").await.unwrap();
    authpi.emulator.deliveries_settled().await;
    let path = format!("/webhooks/{id}/deliveries/{}/redeliver", authpi.delivery(&id).await["id"].as_str().unwrap());
    endpoint.then([Reply::Never, Reply::Never]);
    authpi.emulator.trigger("user.created").await.unwrap();
    let waiting = tokio::spawn(authpi.request(Method::POST, &path).send());
    endpoint.until(3).await;
    let mut idle = TcpStream::connect(authpi.emulator.address()).await.unwrap();
    timeout(Duration::from_secs(5), authpi.emulator.stop()).await.expect("the emulator did not stop");
    assert!(matches!(idle.read(&mut [0; 1]).await, Ok(0) | Err(_)), "an idle connection was left open");
    assert!(waiting.await.unwrap().is_err(), "a call was answered whose delivery never was");
}

#[tokio::test]
async fn its_address_is_free_when_it_has_stopped() {
    let emulator = Emulator::start().await.unwrap();
    let address = emulator.address();
    let taken = Emulator::builder().listen(address).start().await.unwrap_err();
    assert!(taken.to_string().contains(&address.to_string()));
    let cause = std::error::Error::source(&taken).unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), ErrorKind::AddrInUse);
    emulator.stop().await;
    Emulator::builder().listen(address).start().await.unwrap();
}

#[tokio::test]
async fn it_ends_when_it_is_dropped() {
    let emulator = Emulator::start().await.unwrap();
    let mut open = TcpStream::connect(emulator.address()).await.unwrap();
    drop(emulator);
    let closed = timeout(Duration::from_secs(5), open.read(&mut [0; 1])).await.expect("the connection was left open");
    assert!(matches!(closed, Ok(0) | Err(_)));
}

#[tokio::test]
async fn each_emulator_has_an_account_and_credentials_of_its_own() {
    let (one, two) = (Emulator::start().await.unwrap(), Emulator::start().await.unwrap());
    assert_ne!(one.account_id(), two.account_id());
    assert_ne!(one.key_id(), two.key_id());
    assert_ne!(one.key_secret(), two.key_secret());
    assert_ne!(one.access_token(), two.access_token());
    assert_ne!(one.base_url(), two.base_url());
    for secret in [one.key_secret(), one.access_token()] {
        assert!(!format!("{one:?}").contains(secret), "a secret is in Debug");
    }
}
