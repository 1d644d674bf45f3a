//! Rotating a secret without a delivery that cannot be verified.

use std::{sync::Arc, time::Duration};

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::{DeliveryAuth, WebhookSpec},
    endpoint::{EndpointError, Ensured, MemorySecretStore, SecretStore},
    event::{Event, EventType, types::UserCreated},
    handlers::{Context, Handlers},
    receiver::Receiver,
    signature::{KeyRing, Verifier},
    stores::Memory,
};
use axum::Router;

use super::{emulator::client, spec};

type Outcome = Result<(), Box<dyn std::error::Error>>;

type Seen = std::sync::Mutex<Vec<String>>;

/// A receiver at its own address that records each handled event.
async fn receiver(
    ring: Arc<std::sync::OnceLock<KeyRing>>,
) -> (String, Arc<Seen>, impl FnOnce(KeyRing)) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let seen = Arc::<Seen>::default();
    let state = Arc::clone(&seen);
    let start = move |keys: KeyRing| {
        ring.set(keys.clone()).expect("it is started once");
        let handlers =
            Handlers::new(state).on(async |event: Event<UserCreated>, cx: Context<Arc<Seen>>| {
                cx.state().lock().unwrap().push(event.id().to_owned());
                Ok(())
            });
        let hook = Receiver::inline("users", Verifier::authpi(keys), Memory::new(), handlers)
            .build()
            .unwrap();
        let app = Router::new().route_service("/hook", hook);
        tokio::spawn(async move { axum::serve(listener, app).await });
    };
    (url, seen, start)
}

async fn ids(client: &Client) -> Vec<String> {
    client
        .webhooks()
        .list()
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|webhook| webhook.id)
        .collect()
}

#[tokio::test]
async fn every_event_is_handled_once_before_during_and_after_a_rotation() -> Outcome {
    let emulator = Emulator::builder().retry_delays([]).start().await?;
    let client = client(&emulator);
    let secrets = MemorySecretStore::new();
    let (url, seen, start) = receiver(Arc::default()).await;
    let spec = WebhookSpec::new("users", url).events([EventType::UserCreated]);
    let first = client
        .webhooks()
        .ensure(&spec, &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    let keys = secrets.keys("users").await?;
    start(keys.signatures.clone());
    let mut happened = Vec::new();
    let mut happen = async || {
        for _ in 0..5 {
            happened.push(emulator.trigger(EventType::UserCreated).await.unwrap().id);
        }
        emulator.deliveries_finished().await;
        let mut handled = seen.lock().unwrap().clone();
        handled.sort();
        assert_eq!(handled, happened);
    };

    happen().await;
    let rotation = client.webhooks().rotate("2026-11", &spec, &secrets).await?;
    let second = rotation.new_webhook().id.clone();
    assert_eq!(rotation.old().map(|old| &*old.id), Some(&*first));
    // The ring does not have the new secret yet: deliveries by the second webhook are refused, but
    // the first one delivers them as well.
    happen().await;
    assert_eq!(rotation.matches(&keys.signatures).new, None);
    assert!(!rotation.in_use(&keys.signatures, Duration::ZERO).await);
    keys.replace(&rotation.keys().await?)?;
    happen().await;
    assert!(rotation.in_use(&keys.signatures, Duration::ZERO).await);
    let matches = rotation.matches(&keys.signatures);
    assert!(
        matches.old.is_some() && matches.new.is_some(),
        "{matches:?}"
    );
    rotation.finish().await?;
    happen().await;
    let after = rotation.matches(&keys.signatures);
    assert!(
        after.old == matches.old && after.new > matches.new,
        "the old secret is still in use: {after:?}"
    );
    rotation.finish().await?;

    assert_eq!(ids(&client).await, [second.as_str()]);
    let mut kept = secrets.load("users").await?;
    kept.sort_by_key(|kept| kept.created_at);
    assert!(kept[0].webhook_id == first && kept[0].valid_until.is_some());
    assert!(kept[1].webhook_id == second && kept[1].valid_until.is_none());
    assert!(matches!(
        client.webhooks().ensure(&spec, &secrets).await?,
        Ensured::Unchanged(_)
    ));
    Ok(())
}

#[tokio::test]
async fn a_rotation_goes_on_where_it_stopped_and_is_done_once() -> Outcome {
    let emulator = Emulator::start().await?;
    let client = client(&emulator);
    let (secrets, spec) = (MemorySecretStore::new(), spec());
    let _ = client.webhooks().ensure(&spec, &secrets).await?;
    let rotate = || client.webhooks().rotate("2026-11", &spec, &secrets);
    let begun = rotate().await?;
    let (old, new) = (
        begun.old().unwrap().id.clone(),
        begun.new_webhook().id.clone(),
    );
    // The process that started it has gone, and with it, at worst, the secret that it had not
    // stored yet.
    drop(begun);
    secrets.forget("users", emulator.account_id(), &new).await?;
    let again = rotate().await?;
    assert_eq!(
        (again.old().map(|old| &*old.id), &*again.new_webhook().id),
        (Some(&*old), &*new)
    );
    assert!(again.keys().await?.signatures.names().contains(&new));
    // `ensure` changes neither of them.
    let ensured = client.webhooks().ensure(&spec, &secrets).await?;
    assert!(matches!(&ensured, Ensured::Unchanged(_)), "{ensured}");
    assert_eq!(
        ensured
            .endpoint()
            .successor
            .as_ref()
            .map(|webhook| &*webhook.id),
        Some(&*new)
    );
    let mut both = ids(&client).await;
    both.sort();
    assert_eq!(both, [old, new.clone()]);
    again.finish().await?;
    // A late replica finds it done.
    let late = rotate().await?;
    assert_eq!((late.old(), &*late.new_webhook().id), (None, &*new));
    late.finish().await?;
    assert_eq!(ids(&client).await, [new.as_str()]);
    // The next rotation has another name.
    let next = client.webhooks().rotate("2026-12", &spec, &secrets).await?;
    assert_eq!(next.old().map(|old| &*old.id), Some(&*new));
    Ok(())
}

#[tokio::test]
async fn a_crash_after_the_old_webhook_was_deleted_leaves_its_secret_to_expire() -> Outcome {
    let emulator = Emulator::start().await?;
    let client = client(&emulator);
    let (secrets, spec) = (MemorySecretStore::new(), spec());
    let first = client
        .webhooks()
        .ensure(&spec, &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    let rotation = client.webhooks().rotate("2026-11", &spec, &secrets).await?;
    client.webhooks().delete(&first).await?;
    let ensured = client.webhooks().ensure(&spec, &secrets).await?;
    assert_eq!(ensured.endpoint().webhook.id, rotation.new_webhook().id);
    let kept = secrets.load("users").await?;
    assert!(
        kept.iter()
            .any(|kept| kept.webhook_id == first && kept.valid_until.is_some())
    );
    rotation.finish().await?;
    assert_eq!(ids(&client).await.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_rotation_whose_new_webhook_is_gone_leaves_the_old_one() -> Outcome {
    let emulator = Emulator::start().await?;
    let client = client(&emulator);
    let (secrets, spec) = (MemorySecretStore::new(), spec());
    let first = client
        .webhooks()
        .ensure(&spec, &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    let rotate = || client.webhooks().rotate("2026-11", &spec, &secrets);
    let rotation = rotate().await?;
    client.webhooks().delete(&rotation.new_webhook().id).await?;
    let error = rotation.finish().await.unwrap_err();
    assert!(error.to_string().contains("rotate again"), "{error}");
    assert_eq!(ids(&client).await, [first.as_str()]);
    let again = rotate().await?;
    again.finish().await?;
    assert_eq!(ids(&client).await, [again.new_webhook().id.as_str()]);
    // Both webhooks of the first rotation are deleted now.
    rotation.finish().await?;
    Ok(())
}

#[tokio::test]
async fn eight_replicas_that_rotate_at_once_make_one_successor() -> Outcome {
    let emulator = Emulator::start().await?;
    let client = client(&emulator);
    let (secrets, spec) = (MemorySecretStore::new(), spec());
    let _ = client.webhooks().ensure(&spec, &secrets).await?;
    let replicas: Vec<_> = (0..8)
        .map(|_| {
            let (webhooks, spec, secrets) = (client.webhooks(), spec.clone(), secrets.clone());
            tokio::spawn(async move {
                let rotation = webhooks.rotate("2026-11", &spec, &secrets).await.unwrap();
                rotation.finish().await.unwrap();
                rotation.new_webhook().id.clone()
            })
        })
        .collect();
    let mut made = Vec::new();
    for replica in replicas {
        made.push(replica.await?);
    }
    made.dedup();
    assert_eq!(made, ids(&client).await);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_rotated_is_told() -> Outcome {
    let emulator = Emulator::start().await?;
    let client = client(&emulator);
    let (secrets, spec) = (MemorySecretStore::new(), spec());
    let why = async |spec: &WebhookSpec, name: &str| match client
        .webhooks()
        .rotate(name, spec, &secrets)
        .await
    {
        Err(EndpointError::Call(error)) if error.is_invalid_argument() => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(why(&spec, "a").await.contains("call ensure first"));
    let _ = client.webhooks().ensure(&spec, &secrets).await?;
    let own = spec
        .clone()
        .auth(DeliveryAuth::bearer().with_bearer_token("mine"));
    assert!(why(&own, "a").await.contains("nothing to rotate"));
    let _begun = client.webhooks().rotate("a", &spec, &secrets).await?;
    assert!(why(&spec, "b").await.contains("finish it first"));
    Ok(())
}
