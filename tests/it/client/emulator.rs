//! Every operation against the emulator.

use authpi_emulator::Emulator;
use authpi_sdk::{
    Client,
    client::{CallerType, DeliveryAuth, Error, WebhookAuth, WebhookPatch, WebhookSpec, WebhookStatus},
    event::EventType,
};

async fn started() -> (Emulator, Client) {
    let emulator = Emulator::start().await.expect("the emulator starts");
    let client = client(&emulator);
    (emulator, client)
}

fn client(emulator: &Emulator) -> Client {
    Client::builder()
        .base_url(emulator.base_url())
        .api_key(emulator.key_id(), emulator.key_secret())
        .build()
        .expect("the emulator's credentials make a client")
}

fn spec() -> WebhookSpec {
    WebhookSpec::new("users", "http://127.0.0.1:9/hook").events([EventType::UserCreated])
}

#[tokio::test]
async fn an_api_key_and_an_access_token_both_say_who_they_are() {
    let (emulator, client) = started().await;
    let me = client.whoami().await.unwrap();
    assert_eq!(me.r#type, CallerType::ApiKey);
    assert_eq!(me.accounts[0].account_id, emulator.account_id());
    let by_token =
        Client::builder().base_url(emulator.base_url()).access_token(emulator.access_token()).build().unwrap();
    assert_eq!(by_token.whoami().await.unwrap().accounts.len(), 1);
}

#[tokio::test]
async fn a_webhook_is_created_found_changed_and_deleted() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    let made = client.webhooks().create(&spec().description("first")).await?;
    assert!(made.secret.as_ref().is_some_and(|secret| secret.expose().starts_with("whs_")), "{made:?}");
    assert!(made.bearer_token.is_none() && !made.replayed);
    assert!(matches!(made.webhook.auth, WebhookAuth::Signature(_)));
    let id = &*made.webhook.id;

    let got = client.webhooks().get(id).await?;
    assert_eq!(got.etag, made.etag);
    assert_eq!(got.value.description.as_deref(), Some("first"));
    assert_eq!(client.webhooks().list().await?.items[0].id, id);

    let etag = got.etag.expect("a single resource has an ETag");
    let patch = WebhookPatch::new().name("renamed").clear_description().disable();
    let updated = client.webhooks().update(id, &patch).if_match(&etag).await?;
    assert_eq!(updated.webhook.name, "renamed");
    assert_eq!(updated.webhook.description, None);
    assert_eq!(updated.webhook.status, Some(WebhookStatus::Disabled));
    assert!(updated.secret.is_none());

    client.webhooks().delete(id).await?;
    let after = client.webhooks().get(id).await;
    assert!(after.is_err_and(|error| error.is_not_found() && !error.may_have_run()));
    Ok(())
}

#[tokio::test]
async fn each_kind_of_authentication_comes_with_the_secrets_it_needs() -> Result<(), Error> {
    let (_emulator, client) = started().await;
    for (auth, secret, token) in [
        (DeliveryAuth::signature(), true, false),
        (DeliveryAuth::bearer(), false, true),
        (DeliveryAuth::bearer_and_signature(), true, true),
        (DeliveryAuth::unauthenticated_for_testing(), false, false),
    ] {
        let made = client.webhooks().create(&spec().auth(auth)).await?;
        assert_eq!((made.secret.is_some(), made.bearer_token.is_some()), (secret, token), "{made:?}");
    }
    Ok(())
}
