//! A webhook that is identified by its spec, whatever its present id.

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::WebhookSpec,
    endpoint::{Ensured, MemorySecretStore},
    event::EventType,
    receiver::Receiver,
    reconcile::{MemoryWatermark, Reconcile, ReconcileBuilder},
    signature::Verifier,
    stores::Memory,
};

use super::{Handled, caught_up, noting};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// AuthPI, a client, and a spec whose deliveries all fail, since its URL has no listener.
async fn authpi() -> (Emulator, Client, WebhookSpec) {
    let authpi = Emulator::builder().retry_delays([]).start().await.unwrap();
    let client = Client::builder()
        .base_url(authpi.base_url())
        .api_key(authpi.key_id(), authpi.key_secret());
    let client = client.build().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let spec =
        WebhookSpec::new("users", format!("http://{closed}/hook")).events([EventType::UserCreated]);
    (authpi, client, spec)
}

fn receiver(handled: &Handled) -> Receiver {
    let handlers = noting(handled, |_| false);
    Receiver::inline(
        "users",
        Verifier::dangerously_accept_unauthenticated(),
        Memory::new(),
        handlers,
    )
    .build()
    .unwrap()
}

fn of(client: &Client, receiver: &Receiver, spec: &WebhookSpec) -> ReconcileBuilder {
    Reconcile::builder(client, receiver, spec)
}

#[tokio::test]
async fn what_was_missed_is_found_before_during_and_after_a_rotation() -> Outcome {
    let (authpi, client, spec) = authpi().await;
    let (handled, secrets) = (Handled::default(), MemorySecretStore::new());
    let receiver = receiver(&handled);
    let reconcile = of(&client, &receiver, &spec)
        .watermark(MemoryWatermark::new())
        .build()?;
    let error = reconcile.catch_up().await.unwrap_err();
    assert!(
        error.is_no_webhook() && error.to_string().contains("call ensure first"),
        "{error}"
    );

    let Ensured::Created(first) = client.webhooks().ensure(&spec, &secrets).await? else {
        panic!("it was there")
    };
    let missed = async || {
        let id = authpi.trigger(EventType::UserCreated).await.unwrap().id;
        authpi.deliveries_finished().await;
        assert!(handled.take().is_empty(), "it was delivered");
        assert!(caught_up(&reconcile).await.is_complete());
        assert_eq!(handled.take(), [id]);
    };
    missed().await;
    let rotation = client.webhooks().rotate("2026-11", &spec, &secrets).await?;
    missed().await;
    rotation.finish().await?;
    assert_ne!(first.webhook.id, rotation.new_webhook().id);
    missed().await;
    Ok(())
}

#[tokio::test]
async fn on_a_schedule_a_webhook_in_anothers_place_is_a_reason_to_look() -> Outcome {
    let (authpi, client, spec) = authpi().await;
    let (handled, secrets) = (Handled::default(), MemorySecretStore::new());
    let receiver = receiver(&handled);
    let _ = client.webhooks().ensure(&spec, &secrets).await?;
    // A sign of a missed event makes runs read the log until the sign is older than the overlap.
    // With the default overlap, every run of this short test would read it.
    let reconcile = of(&client, &receiver, &spec)
        .overlap(std::time::Duration::ZERO)
        .only_if_missed()
        .build()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        reconcile
            .run(std::time::Duration::from_millis(1), async {
                drop(stopped.await);
            })
            .await;
    });
    let found = async |id: String| {
        let found = async {
            while handled.ids().last() != Some(&id) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::TEST_TIMEOUT, found)
            .await
            .expect("no further read");
    };
    let rotated = async |name: &str| {
        let rotation = client.webhooks().rotate(name, &spec, &secrets).await?;
        // The failed delivery disappears with the old webhook, before anyone has seen it.
        let id = authpi.trigger(EventType::UserCreated).await?.id;
        authpi.deliveries_finished().await;
        rotation.finish().await?;
        Ok::<_, Box<dyn std::error::Error>>(id)
    };
    found(rotated("first").await?).await;
    found(rotated("second").await?).await;
    let _ = stop.send(());
    running.await?;
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_nobody_ensured_is_found_by_its_name_and_address() -> Outcome {
    let (authpi, client, spec) = authpi().await;
    let other =
        WebhookSpec::new("users", "http://127.0.0.1:9/elsewhere").events([EventType::UserDeleted]);
    client.webhooks().create(&other).await?;
    assert_eq!(client.webhooks().find(&spec).await?, None);
    let oldest = client.webhooks().create(&spec).await?.webhook;
    client.webhooks().create(&spec).await?;
    assert_eq!(
        client.webhooks().find(&spec).await?.map(|got| got.value.id),
        Some(oldest.id)
    );

    let handled = Handled::default();
    let receiver = receiver(&handled);
    let id = authpi.trigger(EventType::UserCreated).await?.id;
    assert!(
        caught_up(&of(&client, &receiver, &spec).build()?)
            .await
            .is_complete()
    );
    assert_eq!(handled.take(), [id]);

    // A webhook that `ensure` has marked in its metadata takes precedence over an older one without
    // the mark.
    let secrets = MemorySecretStore::new();
    let ensured = client
        .webhooks()
        .ensure(&spec, &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    assert_eq!(
        client.webhooks().find(&spec).await?.map(|got| got.value.id),
        Some(ensured)
    );
    Ok(())
}
