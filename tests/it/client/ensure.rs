//! The webhook that a service declares, with one replica and with many.

use std::{
    collections::HashSet,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use authpi_emulator::{Emulator, EmulatorClock};
use authpi_sdk::{
    Client, RawJson,
    client::{DeliveryAuth, WebhookPatch, WebhookSpec, WebhookStatus},
    endpoint::{
        EndpointError, Ensured, FileSecretStore, MemorySecretStore, SecretStore, SecretStoreError,
        StoredSecret,
    },
    event::EventType,
};
use serde_json::json;

use super::{
    emulator::client,
    peer::{Peer, Reply},
    spec,
};
use crate::support::Folder;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// An emulator whose webhooks are two days old when they are created: no response is replayed any
/// more.
async fn two_days_ago() -> (Emulator, Client) {
    let then = SystemTime::now() - Duration::from_hours(48);
    let then = jiff::Timestamp::try_from(then).unwrap();
    let emulator = Emulator::builder()
        .clock(EmulatorClock::manual(then))
        .start()
        .await
        .unwrap();
    let client = client(&emulator);
    (emulator, client)
}

async fn started() -> (Emulator, Client, MemorySecretStore) {
    let emulator = Emulator::start().await.unwrap();
    let client = client(&emulator);
    (emulator, client, MemorySecretStore::new())
}

async fn webhooks(client: &Client) -> Vec<String> {
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

async fn kept_ids(secrets: &impl SecretStore) -> Vec<String> {
    secrets
        .load("users")
        .await
        .unwrap()
        .into_iter()
        .map(|kept| kept.webhook_id)
        .collect()
}

#[tokio::test]
async fn what_is_missing_is_created_and_afterwards_unchanged() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let made = client.webhooks().ensure(&spec(), &secrets).await?;
    assert!(matches!(made, Ensured::Created(_)), "{made}");
    let again = client.webhooks().ensure(&spec(), &secrets).await?;
    assert!(matches!(again, Ensured::Unchanged(_)), "{again}");
    assert_eq!(made.endpoint(), again.endpoint());
    assert_eq!(
        webhooks(&client).await,
        [made.endpoint().webhook.id.as_str()]
    );
    assert_eq!(
        secrets.keys("users").await?.signatures.names(),
        [made.endpoint().webhook.id.as_str()]
    );
    let shown = format!("{made} {made:?} {secrets:?}");
    for kept in secrets.load("users").await? {
        assert!(!shown.contains(kept.secret.unwrap().expose()), "{shown}");
    }
    Ok(())
}

#[tokio::test]
async fn what_differs_is_changed_and_told_and_what_is_not_declared_stays() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let made = client
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint()
        .webhook
        .clone();
    let by_hand = WebhookPatch::new().description("by hand").disable();
    client.webhooks().update(&made.id, &by_hand).await?;
    let metadata = RawJson::new(&json!({"team": "identity"}))?;
    let wanted = spec().events([EventType::UserDeleted]).metadata(metadata);
    let Ensured::Updated(endpoint, diff) = client.webhooks().ensure(&wanted, &secrets).await?
    else {
        panic!("nothing was changed");
    };
    assert_eq!(
        diff.to_string(),
        "events, metadata +user.deleted -user.created"
    );
    assert_eq!(endpoint.webhook.id, made.id);
    assert_eq!(endpoint.webhook.events, ["user.deleted"]);
    assert_eq!(endpoint.webhook.description.as_deref(), Some("by hand"));
    assert_eq!(endpoint.webhook.status, Some(WebhookStatus::Disabled));
    assert!(matches!(
        client.webhooks().ensure(&wanted, &secrets).await?,
        Ensured::Unchanged(_)
    ));
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_was_deleted_is_made_again_though_its_answer_is_replayed() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let mut ids = HashSet::new();
    for _ in 0..4 {
        let made = client.webhooks().ensure(&spec(), &secrets).await?;
        assert!(matches!(made, Ensured::Created(_)), "{made}");
        let id = &made.endpoint().webhook.id;
        assert_eq!(webhooks(&client).await, [id.as_str()]);
        assert!(
            ids.insert(id.clone()),
            "a deleted webhook was taken for a live one"
        );
        client.webhooks().delete(id).await?;
    }
    // Secrets of a deleted webhook are accepted for a while, not for ever.
    client
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint();
    let lasting = secrets
        .load("users")
        .await?
        .into_iter()
        .filter(|kept| kept.valid_until.is_none());
    assert_eq!(lasting.count(), 1);
    Ok(())
}

#[tokio::test]
async fn who_crashed_before_the_secret_was_kept_gets_it_back() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let made = client.webhooks().ensure(&spec(), &secrets).await?;
    let kept = secrets.load("users").await?;
    let empty = MemorySecretStore::new();
    let again = client.webhooks().ensure(&spec(), &empty).await?;
    assert!(matches!(again, Ensured::Unchanged(_)), "{again}");
    assert_eq!(empty.load("users").await?, kept);
    assert_eq!(
        webhooks(&client).await,
        [made.endpoint().webhook.id.as_str()]
    );
    Ok(())
}

#[tokio::test]
async fn a_lost_secret_is_told_and_nothing_changed_until_renewal_is_asked_for() -> Outcome {
    let (_emulator, client) = two_days_ago().await;
    let secrets = MemorySecretStore::new();
    let first = client
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint()
        .webhook
        .clone();
    let empty = MemorySecretStore::new();
    let declared = spec().description("changed");
    let ensure = || {
        client
            .webhooks()
            .ensure(&declared, &empty)
            .secret_wait(Duration::ZERO)
    };
    let lost = ensure().await.unwrap_err();
    assert!(lost.is_secret_lost() && lost.is_permanent(), "{lost}");
    assert_eq!(
        lost.to_string(),
        format!(
            "webhook {} exists, but its secret is not in the store: save the secret there, or call \
             ensure with renew_lost_secret()",
            first.id
        )
    );
    assert_eq!(client.webhooks().get(&first.id).await?.value, first);

    let renewed = ensure().renew_lost_secret().await?;
    assert!(matches!(renewed, Ensured::Renewed(_)), "{renewed}");
    let now = &renewed.endpoint().webhook.id;
    assert_eq!(renewed.endpoint().removed, [first.id]);
    assert_eq!(webhooks(&client).await, [now.as_str()]);
    assert_eq!(kept_ids(&empty).await, [now.as_str()]);
    assert!(matches!(
        ensure().renew_lost_secret().await?,
        Ensured::Unchanged(_)
    ));
    Ok(())
}

#[tokio::test]
async fn a_secret_that_another_replica_is_about_to_keep_is_waited_for() -> Outcome {
    /// A store that shows its content only after several reads.
    struct Late(MemorySecretStore, AtomicU32);
    impl SecretStore for Late {
        async fn load(&self, endpoint: &str) -> Result<Vec<StoredSecret>, SecretStoreError> {
            if self.1.fetch_add(1, Ordering::SeqCst) < 3 {
                Ok(Vec::new())
            } else {
                self.0.load(endpoint).await
            }
        }
        async fn save(&self, endpoint: &str, kept: &StoredSecret) -> Result<(), SecretStoreError> {
            self.0.save(endpoint, kept).await
        }
        async fn forget(
            &self,
            endpoint: &str,
            account_id: &str,
            id: &str,
        ) -> Result<(), SecretStoreError> {
            self.0.forget(endpoint, account_id, id).await
        }
    }
    let (_emulator, client) = two_days_ago().await;
    let theirs = MemorySecretStore::new();
    let _ = client.webhooks().ensure(&spec(), &theirs).await?;
    let late = Late(theirs, AtomicU32::new(0));
    let seen = client
        .webhooks()
        .ensure(&spec(), &late)
        .secret_wait(Duration::from_mins(1))
        .await?;
    assert!(matches!(seen, Ensured::Unchanged(_)), "{seen}");
    assert!(late.1.load(Ordering::SeqCst) > 3);
    Ok(())
}

#[tokio::test]
async fn changing_the_authentication_replaces_the_webhook_without_a_gap() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let first = client
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    let both = spec().auth(DeliveryAuth::bearer_and_signature());
    let Ensured::Updated(endpoint, diff) = client.webhooks().ensure(&both, &secrets).await? else {
        panic!("it was not replaced");
    };
    assert_eq!(
        (diff.to_string(), &*endpoint.removed),
        ("auth".to_owned(), std::slice::from_ref(&first))
    );
    let keys = secrets.keys("users").await?;
    assert_eq!(
        keys.signatures.names(),
        [endpoint.webhook.id.clone(), first]
    );
    assert_eq!(keys.bearer_tokens.names(), [endpoint.webhook.id.as_str()]);
    assert!(matches!(
        client.webhooks().ensure(&both, &secrets).await?,
        Ensured::Unchanged(_)
    ));
    Ok(())
}

#[tokio::test]
async fn what_others_made_under_the_same_name_is_told_of_and_left_alone() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let by_hand = client.webhooks().create(&spec()).await?.webhook;
    let elsewhere = WebhookSpec::new("users", "http://127.0.0.1:9/another").all_events();
    client.webhooks().create(&elsewhere).await?;
    let made = client.webhooks().ensure(&spec(), &secrets).await?;
    assert!(matches!(made, Ensured::Created(_)), "{made}");
    assert_eq!(made.endpoint().others, [by_hand.id.as_str()]);
    assert_eq!(client.webhooks().get(&by_hand.id).await?.value, by_hand);
    assert_eq!(webhooks(&client).await.len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_webhook_whose_secret_is_in_the_store_is_adopted() -> Outcome {
    let (emulator, client, secrets) = started().await;
    let by_hand = client.webhooks().create(&spec()).await?;
    let created_at = by_hand.webhook.created_at.timestamp()?;
    let mut kept = StoredSecret::new(emulator.account_id(), &by_hand.webhook.id, created_at);
    kept.secret = by_hand.secret;
    secrets.save("users", &kept).await?;
    let adopted = client.webhooks().ensure(&spec(), &secrets).await?;
    assert!(
        matches!(&adopted, Ensured::Updated(_, diff) if diff.members == ["metadata"]),
        "{adopted}"
    );
    // The update added the SDK's mark to the webhook's metadata, so it is recognized without the
    // secret store, too.
    assert_eq!(adopted.endpoint().webhook.id, by_hand.webhook.id);
    assert!(matches!(
        client.webhooks().ensure(&spec(), &secrets).await?,
        Ensured::Unchanged(_)
    ));
    Ok(())
}

#[tokio::test]
async fn younger_twins_are_deleted_and_their_secrets_forgotten() -> Outcome {
    let (_emulator, client, secrets) = started().await;
    let first = client
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint()
        .webhook
        .clone();
    let metadata = RawJson::new(&json!({"authpi_sdk_key": "of-another-replica"}))?;
    let twin = client
        .webhooks()
        .create(&spec().metadata(metadata))
        .await?
        .webhook;
    let ensured = client.webhooks().ensure(&spec(), &secrets).await?;
    assert_eq!(
        (&ensured.endpoint().webhook, &*ensured.endpoint().removed),
        (&first, &[twin.id][..])
    );
    assert_eq!(webhooks(&client).await, [first.id]);
    Ok(())
}

#[tokio::test]
async fn a_store_that_fails_is_told_with_its_cause_and_tried_again_later() -> Outcome {
    struct Broken;
    impl SecretStore for Broken {
        async fn load(&self, _: &str) -> Result<Vec<StoredSecret>, SecretStoreError> {
            Ok(Vec::new())
        }
        async fn save(&self, _: &str, _: &StoredSecret) -> Result<(), SecretStoreError> {
            Err(SecretStoreError::new(
                "save a secret",
                std::io::Error::other("disk full"),
            ))
        }
        async fn forget(&self, _: &str, _: &str, _: &str) -> Result<(), SecretStoreError> {
            Ok(())
        }
    }
    let (_emulator, client, secrets) = started().await;
    let error = client
        .webhooks()
        .ensure(&spec(), &Broken)
        .await
        .unwrap_err();
    assert!(matches!(&error, EndpointError::Secrets(_)), "{error}");
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "the secret store failed to save a secret"
    );
    let again = client.webhooks().ensure(&spec(), &secrets).await?;
    assert_eq!(
        secrets.keys("users").await?.signatures.names(),
        [again.endpoint().webhook.id.as_str()]
    );
    assert_eq!(webhooks(&client).await.len(), 1);
    Ok(())
}

/// AuthPI as a server of one webhook: a POST creates it, or is a replay without secrets. The test
/// decides how a `get` is answered.
async fn one_webhook(
    replayed: bool,
    get: impl Fn(&serde_json::Value) -> Reply + Send + Sync + 'static,
) -> Peer {
    let metadata = std::sync::Mutex::new(serde_json::Value::Null);
    let webhook = move |metadata: &serde_json::Value| {
        json!({
            "id": "wh_1", "account_id": "acc_1", "name": "users", "url": "http://127.0.0.1:9/hook", "status": "active",
            "auth_type": "signature", "auth": {"type": "signature"}, "events": ["user.created"], "metadata": metadata, "created_at": i64::MAX / 2_000_000,
        })
    };
    Peer::answering(move |asked| {
        if asked.line.starts_with("POST") {
            let sent: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
            *metadata.lock().unwrap() = sent["metadata"].clone();
            let mut made = webhook(&sent["metadata"]);
            if !replayed {
                made["signature_secret_plain"] = "whs_1".into();
            }
            let replay = [
                ("content-type", "application/json"),
                ("idempotent-replayed", "true"),
            ];
            return Reply::new(
                201,
                &replay[..=usize::from(replayed)],
                &json!({ "data": made }).to_string(),
            );
        }
        let there = webhook(&metadata.lock().unwrap());
        if asked.line.contains("/webhooks/wh_1") {
            return get(&there);
        }
        let listed = if there["metadata"].is_null() {
            vec![]
        } else {
            vec![there]
        };
        Reply::json(
            200,
            &json!({"data": listed, "has_more": false, "next_cursor": null}).to_string(),
        )
    })
    .await
}

#[tokio::test]
async fn a_replay_without_secrets_takes_no_kept_secrets_place() -> Outcome {
    let peer = one_webhook(true, |there| {
        Reply::json(200, &json!({ "data": there }).to_string())
    })
    .await;
    let secrets = MemorySecretStore::new();
    let mut kept = StoredSecret::new("acc_1", "wh_1", jiff::Timestamp::from_millisecond(7)?);
    kept.secret = Some("whs_1".into());
    secrets.save("users", &kept).await?;
    // The first list is empty, so `ensure` sends a create, and gets a replay without secrets.
    let _ = peer
        .client()
        .webhooks()
        .ensure(&spec(), &secrets)
        .secret_wait(Duration::ZERO)
        .await?;
    assert!(
        peer.asked()
            .iter()
            .any(|asked| asked.line.starts_with("POST"))
    );
    assert_eq!(secrets.load("users").await?, [kept]);
    Ok(())
}

#[tokio::test]
async fn a_gateways_404_neither_recreates_a_webhook_nor_expires_a_secret() -> Outcome {
    let peer = one_webhook(false, |_| {
        Reply::new(404, &[("content-type", "text/html")], "<html>")
    })
    .await;
    let secrets = MemorySecretStore::new();
    let error = peer
        .client()
        .webhooks()
        .ensure(&spec(), &secrets)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, EndpointError::Call(error) if error.is_not_found()),
        "{error}"
    );
    let made = peer
        .asked()
        .into_iter()
        .filter(|asked| asked.line.starts_with("POST"));
    assert_eq!(made.count(), 1);
    assert!(
        secrets
            .load("users")
            .await?
            .iter()
            .all(|kept| kept.valid_until.is_none())
    );
    Ok(())
}

#[tokio::test]
async fn a_successor_without_a_secret_takes_nobodys_place() -> Outcome {
    let there = std::sync::Mutex::new(Vec::<serde_json::Value>::new());
    let peer = Peer::answering(move |asked| {
        let mut there = there.lock().unwrap();
        let id = |line: &str| line.split("/webhooks/").nth(1).map(|rest| rest.split(' ').next().unwrap().to_owned());
        let answer = match (asked.line.split(' ').next().unwrap(), id(&asked.line)) {
            ("POST", _) => {
                let sent: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
                let n = there.len() + 1;
                let mut made = json!({
                    "id": format!("wh_{n}"), "account_id": "acc_1", "name": sent["name"], "url": sent["url"], "status": "active",
                    "auth": sent["auth"], "auth_type": sent["auth"]["type"], "events": sent["events"], "metadata": sent["metadata"], "created_at": n,
                });
                there.push(made.clone());
                if n == 1 {
                    made["auth"]["signature_secret_plain"] = "whs_1".into();
                }
                return Reply::json(201, &json!({ "data": made }).to_string());
            }
            ("DELETE", Some(id)) => {
                there.retain(|webhook| webhook["id"] != id.as_str());
                return Reply::json(204, "");
            }
            (_, Some(id)) => there.iter().find(|webhook| webhook["id"] == id.as_str()).map(|webhook| json!({ "data": webhook })),
            _ => Some(json!({"data": *there, "has_more": false, "next_cursor": null})),
        };
        let none = r#"{"error":"not_found","error_description":"there is none","retryable":false}"#;
        answer.map_or_else(|| Reply::json(404, none), |answer| Reply::json(200, &answer.to_string()))
    })
    .await;
    let secrets = MemorySecretStore::new();
    let first = peer
        .client()
        .webhooks()
        .ensure(&spec(), &secrets)
        .await?
        .endpoint()
        .webhook
        .id
        .clone();
    let both = spec().auth(DeliveryAuth::bearer_and_signature());
    let error = peer
        .client()
        .webhooks()
        .ensure(&both, &secrets)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("the old webhook is kept"),
        "{error}"
    );
    assert_eq!(webhooks(&peer.client()).await, [first.as_str()]);
    assert_eq!(kept_ids(&secrets).await, [first]);
    Ok(())
}

#[tokio::test]
async fn a_spec_that_cannot_be_meant_is_refused_before_anything_is_sent() {
    let peer = Peer::replying(Reply::json(500, "")).await;
    let metadata = RawJson::new(&json!([1])).unwrap();
    let none = WebhookSpec::new("users", "https://example.com");
    for spec in [none.clone(), none.disabled()] {
        let error = peer
            .client()
            .webhooks()
            .ensure(&spec, &MemorySecretStore::new())
            .await
            .unwrap_err();
        assert!(
            matches!(&error, EndpointError::Call(error) if error.is_invalid_argument()),
            "{error}"
        );
    }
    assert!(peer.asked().is_empty());
    let (_emulator, client, secrets) = started().await;
    let error = client
        .webhooks()
        .ensure(&spec().metadata(metadata), &secrets)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, EndpointError::Call(error) if error.is_invalid_argument()),
        "{error}"
    );
}

// From here on: processes.

const REPLICA: &str = "AUTHPI_IT_REPLICA";

/// A process that ensures one of two specs, with its secrets in this file.
fn replica(emulator: &Emulator, secrets: &Path, which: usize) -> Child {
    Command::new(env::current_exe().expect("a test knows where it is"))
        .args([
            "--exact",
            "client::ensure::a_process_ensures_the_spec_in_its_environment",
            "--nocapture",
        ])
        .env(REPLICA, which.to_string())
        .env("AUTHPI_IT_SECRETS", secrets)
        .env("AUTHPI_BASE_URL", emulator.base_url())
        .env("AUTHPI_KEY_ID", emulator.key_id())
        .env("AUTHPI_KEY_SECRET", emulator.key_secret())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's own program starts")
}

/// One of the processes below. If it was not started as one, a single replica.
#[tokio::test]
async fn a_process_ensures_the_spec_in_its_environment() -> Outcome {
    let Ok(which) = env::var(REPLICA) else {
        let folder = Folder::new();
        replicas(1, |_| folder.path().join("secrets.json"), |_| 0).await;
        return Ok(());
    };
    let secrets = FileSecretStore::new(env::var("AUTHPI_IT_SECRETS")?);
    let client = Client::from_env()?;
    let spec = match &*which {
        "0" => spec(),
        _ => spec()
            .events([EventType::UserDeleted])
            .description("the other"),
    };
    println!("\nready");
    std::io::stdin().read_line(&mut String::new())?;
    let ensured = client.webhooks().ensure(&spec, &secrets).await?;
    let webhook_id = &ensured.endpoint().webhook.id;
    let kept = secrets
        .load("users")
        .await?
        .into_iter()
        .find(|kept| kept.webhook_id == *webhook_id);
    let secret = kept
        .and_then(|kept| kept.secret)
        .expect("its secret is kept");
    println!("\nensured {webhook_id} {}", secret.expose());
    Ok(())
}

/// Starts all at the same time, and returns each result.
fn together(mut replicas: Vec<Child>) -> Vec<String> {
    let mut outputs: Vec<_> = replicas
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("it is piped")).lines())
        .collect();
    let mut line = |at: usize, begin: &str| loop {
        let line = outputs[at]
            .next()
            .expect("the process has printed everything")
            .expect("it tells text");
        if line.starts_with(begin) {
            return line;
        }
    };
    for at in 0..replicas.len() {
        line(at, "ready");
    }
    for replica in &mut replicas {
        replica
            .stdin
            .take()
            .expect("it is piped")
            .write_all(b"go\n")
            .expect("the process waits for it");
    }
    let reported = (0..replicas.len()).map(|at| line(at, "ensured ")).collect();
    for mut replica in replicas {
        assert!(replica.wait().expect("it ends").success());
    }
    reported
}

async fn replicas(
    count: usize,
    secrets: impl Fn(usize) -> PathBuf,
    which: impl Fn(usize) -> usize,
) {
    let (emulator, client, _) = started().await;
    let replicas = (0..count)
        .map(|n| replica(&emulator, &secrets(n), which(n)))
        .collect();
    let reported = tokio::task::spawn_blocking(|| together(replicas))
        .await
        .unwrap();
    let only = &reported[0];
    assert!(reported.iter().all(|other| other == only), "{reported:?}");
    let listed = webhooks(&client).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(
        only.starts_with(&format!("ensured {} whs_", listed[0])),
        "{only}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_with_one_spec_end_with_one_webhook_and_one_secret() {
    let folder = Folder::new();
    replicas(8, |_| folder.path().join("secrets.json"), |_| 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_with_two_specs_end_with_one_webhook_and_one_secret() {
    let folder = Folder::new();
    replicas(8, |_| folder.path().join("secrets.json"), |n| n % 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_without_a_shared_store_end_with_one_webhook() {
    let folder = Folder::new();
    replicas(8, |n| folder.path().join(format!("{n}.json")), |_| 0).await;
}
