//! `authpi webhooks`: the account's webhooks.

use std::path::{Path, PathBuf};

use authpi_sdk::{
    RawJson,
    client::{
        Client, Created, DeliveryAuth, Patch, Webhook, WebhookListItem, WebhookPatch, WebhookSpec,
        WebhookStatus,
    },
    endpoint::FileSecretStore,
    event::EventType,
    signature::Secret,
};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::confirm;
use crate::{
    arguments::event_type,
    connect::Connect,
    failure::{Failure, Result},
    files::read,
    output::{Output, Record, time},
    secret::NewSecretFile,
};

/// Manage the account's webhooks.
#[derive(Subcommand)]
pub(crate) enum Command {
    List(List),
    Get(Get),
    Create(Create),
    Update(Update),
    Delete(Delete),
    Enable(Enable),
    Disable(Disable),
    Ensure(Ensure),
    Rotate(Rotate),
}

/// List the webhooks.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks list --status active")]
pub(crate) struct List {
    /// Only webhooks with this status: active, disabled or deleted
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,

    /// The maximum number of webhooks to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,

    #[command(flatten)]
    connect: Connect,
}

/// Show one webhook.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks get wh_1")]
pub(crate) struct Get {
    /// The webhook's id
    webhook_id: String,

    #[command(flatten)]
    connect: Connect,
}

/// Create a webhook, and show its secret this one time.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    authpi webhooks create users https://example.com/hooks --events user.created,user.updated\n  \
    authpi webhooks create --json-file webhook.json --secret-file secret.txt")]
pub(crate) struct Create {
    #[command(flatten)]
    spec: Spec,

    /// Write the secret to this new file, which only its owner can read, instead of showing it
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    #[command(flatten)]
    connect: Connect,
}

/// What a webhook is to be.
#[derive(Args)]
pub(crate) struct Spec {
    /// The webhook's name
    #[arg(required_unless_present = "json_file", conflicts_with = "json_file")]
    name: Option<String>,

    /// The address that deliveries are sent to
    #[arg(required_unless_present = "json_file", conflicts_with = "json_file")]
    url: Option<String>,

    /// The event types to deliver, with commas between them. Default: all that this version knows
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type, conflicts_with = "json_file")]
    events: Vec<EventType>,

    /// How deliveries are authenticated
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        default_value_t,
        conflicts_with = "json_file"
    )]
    auth: Auth,

    /// What the webhook is for
    #[arg(long, value_name = "TEXT", conflicts_with = "json_file")]
    description: Option<String>,

    /// Create it paused
    #[arg(long, conflicts_with = "json_file")]
    disabled: bool,

    /// A file with the whole webhook as JSON, with the members of the API; - for standard input
    #[arg(long, value_name = "FILE")]
    json_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Auth {
    /// A signature, with a secret that AuthPI creates
    #[default]
    Signature,
    /// A bearer token that AuthPI creates
    Bearer,
    /// Both
    #[value(name = "bearer+signature")]
    BearerSignature,
    /// None: anyone can forge deliveries
    None,
}

impl From<Auth> for DeliveryAuth {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Signature => Self::signature(),
            Auth::Bearer => Self::bearer(),
            Auth::BearerSignature => Self::bearer_and_signature(),
            Auth::None => Self::dangerously_unauthenticated(),
        }
    }
}

/// Change a webhook. What is not given stays unchanged.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks update wh_1 --url https://example.com/new")]
pub(crate) struct Update {
    /// The webhook's id
    webhook_id: String,

    /// Its new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Its new address
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// The event types to deliver from now on, with commas between them
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = event_type)]
    events: Vec<EventType>,

    /// Its new description; empty clears it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// A file with the members to change as JSON: name, url, events, description, subjects, retry,
    /// circuit_breaker, metadata; null clears one; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "url", "events", "description"])]
    json_file: Option<PathBuf>,

    #[command(flatten)]
    connect: Connect,
}

/// Delete a webhook, and with it the records of its deliveries.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks delete wh_1 --yes")]
pub(crate) struct Delete {
    /// The webhook's id
    webhook_id: String,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    connect: Connect,
}

/// Resume deliveries, including after too many failures.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks enable wh_1 --reason \"fixed in 1.4\"")]
pub(crate) struct Enable {
    #[command(flatten)]
    status: Status,
}

/// Pause deliveries.
#[derive(Args)]
#[command(after_help = "Example:\n  authpi webhooks disable wh_1 --reason maintenance")]
pub(crate) struct Disable {
    #[command(flatten)]
    status: Status,
}

#[derive(Args)]
struct Status {
    /// The webhook's id
    webhook_id: String,

    /// Why, for others who look at the webhook
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,

    #[command(flatten)]
    connect: Connect,
}

/// Make sure that a webhook exists as declared, and that its secret is in the file.
///
/// Running it again changes nothing. The file is the SDK's `FileSecretStore`; a receiver reads it
/// under the webhook's name.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi webhooks ensure users https://example.com/hooks --secret-store secrets.json")]
pub(crate) struct Ensure {
    #[command(flatten)]
    spec: Spec,

    /// The file that keeps the secrets
    #[arg(long, value_name = "FILE")]
    secret_store: PathBuf,

    /// Replace a webhook whose secret is not in the file
    #[arg(long)]
    renew_lost_secret: bool,

    #[command(flatten)]
    connect: Connect,
}

/// Replace a webhook by one with a new secret, without losing a delivery.
///
/// The first run creates the new webhook and saves its secret in the file: both deliver, and
/// receivers that read the file accept both. When every receiver has read it, run the command again
/// with --finish, which deletes the old webhook.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    authpi webhooks rotate wh_1 --name 2026-11 --secret-store secrets.json\n  \
    authpi webhooks rotate wh_1 --name 2026-11 --secret-store secrets.json --finish")]
pub(crate) struct Rotate {
    /// The webhook's id
    webhook_id: String,

    /// A name for this rotation, such as 2026-11; each rotation needs a new one
    #[arg(long, value_name = "NAME")]
    name: String,

    /// The file that keeps the secrets
    #[arg(long, value_name = "FILE")]
    secret_store: PathBuf,

    /// Delete the old webhook
    #[arg(long)]
    finish: bool,

    #[command(flatten)]
    connect: Connect,
}

impl Record for WebhookListItem {
    const COLUMNS: &[&str] = &["id", "name", "status", "url", "events", "created"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.name.clone(),
            self.status.to_string(),
            self.url.clone(),
            self.events.len().to_string(),
            time(self.created_at),
        ]
    }
}

/// A webhook with what is shown once.
#[derive(Serialize)]
struct WithSecret<'w> {
    #[serde(flatten)]
    webhook: &'w Webhook,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'w str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bearer_token: Option<&'w str>,
}

impl Command {
    pub(crate) async fn run(self, output: Output) -> Result {
        match self {
            Self::List(list) => list.run(output).await,
            Self::Get(get) => {
                let webhooks = get.connect.client()?.webhooks();
                let got = webhooks.get(&get.webhook_id).await.map_err(no_such)?;
                output.one(&got.value)
            }
            Self::Create(create) => create.run(output).await,
            Self::Update(update) => update.run(output).await,
            Self::Delete(delete) => delete.run(output).await,
            Self::Enable(Enable { status }) => {
                status.set(WebhookPatch::new().enable(), output).await
            }
            Self::Disable(Disable { status }) => {
                status.set(WebhookPatch::new().disable(), output).await
            }
            Self::Ensure(ensure) => ensure.run(output).await,
            Self::Rotate(rotate) => rotate.run(output).await,
        }
    }
}

impl List {
    async fn run(self, output: Output) -> Result {
        let mut call = self.connect.client()?.webhooks().list();
        if let Some(status) = &self.status {
            call = call.status(WebhookStatus::from(status.as_str()));
        }
        output.items(call.items(), self.limit).await
    }
}

impl Create {
    async fn run(self, output: Output) -> Result {
        let (client, spec) = (self.connect.client()?, self.spec.read()?);
        // Before the call: a secret that cannot be written would be lost.
        let file = self
            .secret_file
            .as_deref()
            .map(NewSecretFile::create)
            .transpose()?;
        let Created {
            webhook,
            secret,
            bearer_token,
            ..
        } = client.webhooks().create(&spec).await?;
        let mut shown = WithSecret {
            webhook: &webhook,
            secret: secret.as_ref().map(Secret::expose),
            bearer_token: bearer_token.as_ref().map(Secret::expose),
        };
        let mut failed = None;
        if let (Some(file), Some(only)) = (file, secret.as_ref().or(bearer_token.as_ref())) {
            match file.write(only) {
                // It is shown after all: AuthPI does not show it again.
                Err(failure) => failed = Some(failure),
                Ok(()) if secret.is_some() => shown.secret = None,
                Ok(()) => shown.bearer_token = None,
            }
        }
        if shown.secret.is_some() || shown.bearer_token.is_some() {
            output.note("save the secret now: AuthPI does not show it again");
        }
        output.one(&shown)?;
        failed.map_or(Ok(()), Err)
    }
}

impl Update {
    async fn run(self, output: Output) -> Result {
        let mut patch = match &self.json_file {
            Some(file) => serde_json::from_slice::<PatchFile>(&read(file)?)
                .map_err(|error| not_a("change of a webhook", file, &error))?
                .patch(),
            None => WebhookPatch::new(),
        };
        if let Some(name) = &self.name {
            patch = patch.name(name);
        }
        if let Some(url) = &self.url {
            patch = patch.url(url);
        }
        if !self.events.is_empty() {
            patch = patch.events(self.events.clone());
        }
        patch = match self.description.as_deref() {
            Some("") => patch.clear_description(),
            Some(text) => patch.description(text),
            None => patch,
        };
        if patch == WebhookPatch::new() {
            return Err(Failure::usage("there is nothing to change")
                .hint("give --name, --url, --events, --description or --json-file"));
        }
        change(&self.connect.client()?, &self.webhook_id, &patch, output).await
    }
}

impl Status {
    async fn set(self, mut patch: WebhookPatch, output: Output) -> Result {
        if let Some(reason) = &self.reason {
            patch = patch.status_reason(reason.clone());
        }
        change(&self.connect.client()?, &self.webhook_id, &patch, output).await
    }
}

/// Changes the webhook as it is now, so that a concurrent change is not undone.
async fn change(client: &Client, id: &str, patch: &WebhookPatch, output: Output) -> Result {
    let webhooks = client.webhooks();
    let got = webhooks.get(id).await.map_err(no_such)?;
    let mut call = webhooks.update(id, patch);
    if let Some(etag) = &got.etag {
        call = call.if_match(etag);
    }
    let updated = call.await?;
    output.one(&updated.webhook)
}

impl Delete {
    async fn run(self, output: Output) -> Result {
        let webhooks = self.connect.client()?.webhooks();
        let got = webhooks.get(&self.webhook_id).await.map_err(no_such)?;
        let Webhook { name, url, .. } = &got.value;
        confirm(self.yes, &format!("Delete the webhook {name} ({url})?"))?;
        let mut call = webhooks.delete(&self.webhook_id);
        if let Some(etag) = &got.etag {
            call = call.if_match(etag);
        }
        call.await?;
        output.note(&format!("deleted {}", self.webhook_id));
        Ok(())
    }
}

impl Ensure {
    async fn run(self, output: Output) -> Result {
        let (client, spec) = (self.connect.client()?, self.spec.read()?);
        let secrets = FileSecretStore::new(&self.secret_store);
        let webhooks = client.webhooks();
        let mut ensure = webhooks.ensure(&spec, &secrets);
        if self.renew_lost_secret {
            ensure = ensure.renew_lost_secret();
        }
        let ensured = ensure.await?;
        output.note(&ensured.to_string());
        output.one(&ensured.endpoint().webhook)
    }
}

impl Rotate {
    async fn run(self, output: Output) -> Result {
        let webhooks = self.connect.client()?.webhooks();
        let got = webhooks.get(&self.webhook_id).await.map_err(no_such)?;
        let spec = same_as(&got.value)?;
        let secrets = FileSecretStore::new(&self.secret_store);
        let ensured = webhooks.ensure(&spec, &secrets).await?;
        if self.finish && ensured.endpoint().successor.is_none() {
            return Err(Failure::new("no rotation of this webhook is in progress")
                .hint("run the command without --finish first"));
        }
        let rotation = webhooks.rotate(self.name, &spec, &secrets).await?;
        let new = rotation.new_webhook().clone();
        if self.finish {
            rotation.finish().await?;
            output.note(&format!("{} has replaced the old webhook", new.id));
        } else {
            output.note(&format!(
                "{} delivers too; when every receiver has read {}, run this again with --finish",
                new.id,
                self.secret_store.display()
            ));
        }
        output.one(&new)
    }
}

/// The spec of an existing webhook.
fn same_as(webhook: &Webhook) -> Result<WebhookSpec> {
    use authpi_sdk::client::WebhookAuth;
    let auth = match &webhook.auth {
        WebhookAuth::None(_) => DeliveryAuth::dangerously_unauthenticated(),
        WebhookAuth::Bearer(_) => DeliveryAuth::bearer(),
        WebhookAuth::Signature(_) => DeliveryAuth::signature(),
        WebhookAuth::BearerSignature(_) => DeliveryAuth::bearer_and_signature(),
        _ => {
            return Err(Failure::new(
                "this version does not know the webhook's authentication",
            ));
        }
    };
    let events = webhook
        .events
        .iter()
        .map(|name| EventType::from(name.as_str()));
    Ok(WebhookSpec::new(&webhook.name, &webhook.url)
        .events(events)
        .auth(auth))
}

impl Spec {
    fn read(&self) -> Result<WebhookSpec> {
        if let Some(file) = &self.json_file {
            return serde_json::from_slice::<SpecFile>(&read(file)?)
                .map_err(|error| not_a("webhook", file, &error))?
                .spec();
        }
        let (Some(name), Some(url)) = (&self.name, &self.url) else {
            return Err(Failure::usage("the name and the URL are missing"));
        };
        let mut spec = WebhookSpec::new(name, url).auth(self.auth.into());
        spec = if self.events.is_empty() {
            spec.all_events()
        } else {
            spec.events(self.events.clone())
        };
        if let Some(description) = &self.description {
            spec = spec.description(description);
        }
        if self.disabled {
            spec = spec.disabled();
        }
        Ok(spec)
    }
}

/// A webhook in a file, with the members of the API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecFile {
    name: String,
    url: String,
    description: Option<String>,
    status: Option<String>,
    auth: Option<AuthFile>,
    events: Option<Vec<String>>,
    subjects: Option<Vec<RawJson>>,
    retry: Option<RawJson>,
    circuit_breaker: Option<RawJson>,
    metadata: Option<RawJson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthFile {
    #[serde(rename = "type")]
    kind: String,
    bearer_token: Option<String>,
}

impl SpecFile {
    fn spec(self) -> Result<WebhookSpec> {
        let mut auth = match self.auth.as_ref().map(|auth| auth.kind.as_str()) {
            None | Some("signature") => DeliveryAuth::signature(),
            Some("bearer") => DeliveryAuth::bearer(),
            Some("bearer+signature") => DeliveryAuth::bearer_and_signature(),
            Some("none") => DeliveryAuth::dangerously_unauthenticated(),
            Some(other) => return Err(Failure::usage(format!("auth.type {other} is not known"))),
        };
        if let Some(token) = self.auth.and_then(|auth| auth.bearer_token) {
            auth = auth.with_bearer_token(token);
        }
        let mut spec = WebhookSpec::new(self.name, self.url).auth(auth);
        spec = match self.events {
            Some(events) => spec.events(events.iter().map(|name| EventType::from(name.as_str()))),
            None => spec.all_events(),
        };
        spec = match self.status.as_deref() {
            None | Some("active") => spec,
            Some("disabled") => spec.disabled(),
            Some(other) => return Err(Failure::usage(format!("status {other} is not known"))),
        };
        if let Some(description) = self.description {
            spec = spec.description(description);
        }
        if let Some(subjects) = self.subjects {
            spec = spec.subjects(subjects);
        }
        if let Some(retry) = self.retry {
            spec = spec.retry(retry);
        }
        if let Some(circuit_breaker) = self.circuit_breaker {
            spec = spec.circuit_breaker(circuit_breaker);
        }
        if let Some(metadata) = self.metadata {
            spec = spec.metadata(metadata);
        }
        Ok(spec)
    }
}

/// A change in a file, with the members of the API.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatchFile {
    name: Option<String>,
    url: Option<String>,
    #[serde(default)]
    description: Patch<String>,
    events: Option<Vec<String>>,
    #[serde(default)]
    subjects: Patch<Vec<RawJson>>,
    #[serde(default)]
    retry: Patch<RawJson>,
    #[serde(default)]
    circuit_breaker: Patch<RawJson>,
    #[serde(default)]
    metadata: Patch<RawJson>,
}

impl PatchFile {
    fn patch(self) -> WebhookPatch {
        let mut patch = WebhookPatch::new()
            .subjects(self.subjects)
            .retry(self.retry)
            .circuit_breaker(self.circuit_breaker)
            .metadata(self.metadata);
        if let Some(name) = self.name {
            patch = patch.name(name);
        }
        if let Some(url) = self.url {
            patch = patch.url(url);
        }
        if let Some(events) = self.events {
            patch = patch.events(events.iter().map(|name| EventType::from(name.as_str())));
        }
        match self.description {
            Patch::Keep => patch,
            Patch::Null => patch.clear_description(),
            Patch::Set(text) => patch.description(text),
        }
    }
}

fn not_a(what: &str, file: &Path, error: &serde_json::Error) -> Failure {
    Failure::usage(format!(
        "{} does not hold a {what}: {error}",
        file.display()
    ))
}

/// Adds how to find the id.
fn no_such(error: authpi_sdk::client::Error) -> Failure {
    let not_found = error.is_not_found();
    let failure = Failure::from(error);
    if not_found {
        failure.hint("`authpi webhooks list` shows the ids")
    } else {
        failure
    }
}
