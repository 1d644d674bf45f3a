//! Ensures an endpoint.

use std::{fmt, future::IntoFuture, pin::Pin, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Diff, Endpoint, EndpointError, Ensured,
    diff::{authenticates_otherwise, compare},
    discover::{Ours, Standing, there},
    ownership::{Making, Purpose},
};
use crate::{
    backoff,
    client::{Created, WebhookSpec, Webhooks, api::compare, transport::Error},
    endpoint::{
        secrets::{SecretStore, StoredSecret},
        update_with::UpdateOutcome,
    },
    generated::api::types::{CreateAuthInput, CreateWebhookInput},
};

/// The default of [`Ensure::secret_wait`].
pub const DEFAULT_SECRET_WAIT: Duration = Duration::from_secs(5);

/// The maximum number of rounds. Another round follows if a webhook was created or deleted, or
/// another replica was faster.
const ROUNDS: u32 = 16;
/// The maximum number of times a webhook may have been created and deleted within 24 hours.
const GENERATIONS: u32 = 64;
/// The maximum number of attempts to change a webhook that others change concurrently.
const UPDATES: u32 = 16;
/// The pause after creating a webhook. Afterwards, webhooks that other replicas created at the same
/// moment are visible.
const SETTLING: Duration = Duration::from_millis(200);
const BACKOFF_INITIAL: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// AuthPI keeps an answer for 24 hours. An hour less, since clocks may differ.
const REPLAYED_FOR: Duration = Duration::from_hours(23);
/// How long the secrets of a deleted webhook remain trusted, for deliveries in transit.
const OVERLAP: Duration = Duration::from_hours(1);

impl Webhooks {
    /// Ensures that the webhook of this spec exists as declared, and that its secret is in the
    /// store. Call it when a service starts. Any number of replicas may call it at once;
    /// afterwards, there is one webhook.
    ///
    /// The webhook is the one with the spec's name and URL that has the SDK's mark (members of its
    /// metadata that begin with `authpi_sdk_`), or whose secret is in the store under the spec's
    /// name:
    ///
    /// - If there is none, it is created, and its secret is saved.
    /// - If it differs from the spec, it is changed with `If-Match`. Members that the spec does not
    ///   set, and the webhook's status, stay unchanged. A change of your own bearer token is not
    ///   detected.
    /// - If the kind of authentication differs, a new webhook is created, and this one is deleted.
    ///
    /// A spec with another name or URL is another webhook; deleting the old one is up to you.
    ///
    /// Replicas should share the store. They must use the same API key; otherwise each may create a
    /// webhook, of which all but the oldest are deleted at once. Without a shared store, a replica
    /// only gets the secret within 24 hours of the webhook's creation, and only for the same spec.
    ///
    /// If there is nothing to do, this takes one list call and one `get`. Each call has the
    /// client's timeout.
    ///
    /// Assumed, since AuthPI does not document it: metadata accepts text members and returns them
    /// unchanged; a list contains what was created before the request; and of two webhooks, the one
    /// that was created first does not have the later `created_at`.
    ///
    /// # Errors
    /// When a call or the store fails, and when others keep changing the same webhook. Also when
    /// the webhook exists but its secret is not in the store ([`EndpointError::SecretLost`]).
    /// Completed steps stay completed, and repeating the call continues from there.
    pub fn ensure<'s, S: SecretStore>(&self, spec: &WebhookSpec, secrets: &'s S) -> Ensure<'s, S> {
        Ensure {
            webhooks: self.clone(),
            spec: spec.clone(),
            secrets,
            renew_lost_secret: false,
            secret_wait: DEFAULT_SECRET_WAIT,
        }
    }
}

/// A declaration that takes effect when it is awaited: see [`Webhooks::ensure`].
#[must_use = "does nothing until awaited"]
pub struct Ensure<'s, S> {
    webhooks: Webhooks,
    spec: WebhookSpec,
    secrets: &'s S,
    renew_lost_secret: bool,
    secret_wait: Duration,
}

impl<S> Ensure<'_, S> {
    /// Replaces a webhook whose secret is lost: creates another one, saves its secret, and deletes
    /// the first. The failed deliveries of the first are deleted with it; the event log still has
    /// the events. This is not the default, because a replica with its own store would invalidate
    /// the secret of all others.
    pub fn renew_lost_secret(self) -> Self {
        Self {
            renew_lost_secret: true,
            ..self
        }
    }

    /// How long to wait for a secret that is not in the store. Another replica may have just
    /// created the webhook, and be about to save the secret. Default: [`DEFAULT_SECRET_WAIT`] (5
    /// s).
    pub fn secret_wait(self, wait: Duration) -> Self {
        Self {
            secret_wait: wait,
            ..self
        }
    }
}

impl<S> fmt::Debug for Ensure<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ensure")
            .field("spec", &self.spec)
            .field("renew_lost_secret", &self.renew_lost_secret)
            .field("secret_wait", &self.secret_wait)
            .finish_non_exhaustive()
    }
}

impl<'s, S: SecretStore> IntoFuture for Ensure<'s, S> {
    type Output = Result<Ensured, EndpointError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 's>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let work =
                EnsureRun::new(&self.webhooks, &self.spec, self.secrets, self.secret_wait).await?;
            ensure(&work, self.renew_lost_secret).await
        })
    }
}

async fn ensure<S: SecretStore>(
    work: &EnsureRun<'_, S>,
    renew_lost_secret: bool,
) -> Result<Ensured, EndpointError> {
    let (mut generation, mut round) = (0, 0);
    let (mut created, mut renewed, mut diff, mut removed) =
        (None, false, Diff::default(), Vec::new());
    while round < ROUNDS {
        let kept = work.kept().await?;
        let Standing {
            head,
            successor,
            twins,
            others,
        } = work.look(&kept).await?;
        let others = others.into_iter().map(|got| got.value.id).collect();
        let Some(head) = head else {
            match work.make(&Purpose::default(), generation).await? {
                Made::Gone => {
                    generation += 1;
                    // AuthPI replayed the creation of a webhook that no longer exists. Until this
                    // run has created a webhook, trying the next key does not use up a round. After
                    // that it does, so that a webhook that keeps disappearing ends the run.
                    if created.is_some() {
                        rest(&mut round).await;
                    }
                }
                Made::There {
                    webhook_id,
                    fresh: true,
                    ..
                } => {
                    created = Some(webhook_id);
                    // Afterwards, webhooks that were created at the same moment are visible, so all
                    // replicas agree which is the oldest.
                    tokio::time::sleep(SETTLING).await;
                }
                Made::There { .. } => rest(&mut round).await,
            }
            continue;
        };
        if !twins.is_empty() {
            for twin in &twins {
                if work.delete(twin).await? {
                    work.secrets
                        .forget(&work.input.name, &work.account_id, twin.id())
                        .await?;
                    removed.push(twin.id().to_owned());
                }
            }
            rest(&mut round).await;
            continue;
        }
        let unfit = authenticates_otherwise(&work.input, &head.got.value);
        if unfit || !work.has_secret(&head, &kept).await? {
            if unfit {
                diff.add(Diff {
                    members: vec!["auth"],
                    ..Diff::default()
                });
            } else if renew_lost_secret {
                renewed = true;
            } else {
                let lost = endpoint(head, successor, removed, others);
                return Err(EndpointError::SecretLost(Box::new(lost)));
            }
            removed.extend(work.replace(&head, successor.as_ref(), &kept).await?);
            rest(&mut round).await;
            continue;
        }
        let updated = (
            work.update(head, &mut diff).await?,
            work.update_all(successor, &mut diff).await?,
        );
        let (Some(head), Some(successor)) = updated else {
            rest(&mut round).await;
            continue;
        };
        work.tidy(&kept, [Some(&head), successor.as_ref()]).await?;
        let made = created.as_deref() == Some(head.id());
        let endpoint = endpoint(head, successor, removed, others);
        return Ok(if made {
            Ensured::Created(endpoint)
        } else if renewed {
            Ensured::Renewed(endpoint)
        } else if diff.is_empty() {
            Ensured::Unchanged(endpoint)
        } else {
            Ensured::Updated(endpoint, diff)
        });
    }
    Err(EndpointError::Unsettled(
        "the webhook did not converge: something else keeps changing or deleting it",
    ))
}

/// The pause before the next round.
async fn rest(round: &mut u32) {
    backoff::sleep_before_round(*round, BACKOFF_INITIAL, BACKOFF_MAX).await;
    *round += 1;
}

fn endpoint(
    head: Ours,
    successor: Option<Ours>,
    removed: Vec<String>,
    others: Vec<String>,
) -> Endpoint {
    let successor = successor.map(|ours| ours.got.value);
    Endpoint {
        webhook: head.got.value,
        etag: head.got.etag,
        successor,
        removed,
        others,
    }
}

/// The result of creating a webhook.
pub(super) enum Made {
    /// The webhook exists. `fresh`: the call created it, and the answer was not replayed. `kept`:
    /// its secret was in the answer and is saved.
    There {
        webhook_id: String,
        fresh: bool,
        kept: bool,
    },
    /// The webhook was created with this key before, and has been deleted since.
    Gone,
}

/// The state that ensuring and rotating share.
pub(super) struct EnsureRun<'a, S> {
    pub(super) webhooks: &'a Webhooks,
    spec: &'a WebhookSpec,
    pub(super) input: CreateWebhookInput,
    pub(super) account_id: String,
    pub(super) secrets: &'a S,
    secret_wait: Duration,
}

impl<'a, S: SecretStore> EnsureRun<'a, S> {
    pub(super) async fn new(
        webhooks: &'a Webhooks,
        spec: &'a WebhookSpec,
        secrets: &'a S,
        secret_wait: Duration,
    ) -> Result<Self, Error> {
        spec.check()?;
        let account_id = webhooks.client.account_id().await?.to_owned();
        Ok(Self {
            webhooks,
            spec,
            input: spec.to_input(),
            account_id,
            secrets,
            secret_wait,
        })
    }

    pub(super) async fn kept(&self) -> Result<Vec<StoredSecret>, EndpointError> {
        let mut kept = self.secrets.load(&self.input.name).await?;
        kept.retain(|kept| kept.account_id == self.account_id);
        Ok(kept)
    }

    pub(super) async fn look(&self, kept: &[StoredSecret]) -> Result<Standing, Error> {
        Standing::look(self.webhooks, &self.input.name, &self.input.url, kept).await
    }

    /// Creates a webhook, or gets the replayed answer of the replica that created it with the same
    /// key, and saves its secret.
    async fn make(&self, purpose: &Purpose, generation: u32) -> Result<Made, EndpointError> {
        if generation >= GENERATIONS {
            return Err(EndpointError::Unsettled(
                "the webhook was created and deleted too often within 24 hours",
            ));
        }
        let making = Making::new(
            &self.webhooks.client,
            &self.account_id,
            self.spec,
            purpose,
            generation,
        )?;
        let created = self.create(&making).await?;
        if created.replayed {
            let as_declared = |webhook: &crate::client::Webhook| {
                webhook.name == self.input.name && compare::url(&webhook.url, &self.input.url)
            };
            if !there(self.webhooks, &created.webhook.id)
                .await?
                .is_some_and(|got| as_declared(&got.value))
            {
                return Ok(Made::Gone);
            }
        }
        let kept = self.keep(&created).await?;
        Ok(Made::There {
            webhook_id: created.webhook.id,
            fresh: !created.replayed,
            kept,
        })
    }

    /// Retries while AuthPI answers 409, since another replica is making the same call.
    async fn create(&self, making: &Making) -> Result<Created, Error> {
        let mut tries = 0;
        loop {
            let call = self
                .webhooks
                .create(&making.spec)
                .idempotency_key(&making.idempotency_key);
            match call.await {
                Err(error) if error.is_conflict() && tries < ROUNDS => {
                    let asked = error.retry_after().unwrap_or_default().min(BACKOFF_MAX);
                    tokio::time::sleep(asked).await;
                    backoff::sleep_before_round(tries, BACKOFF_INITIAL, BACKOFF_MAX).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// Saves the secrets of the answer, if it contains all of them. Returns whether it does.
    ///
    /// It is assumed that a replayed answer still contains them. An answer without them must not
    /// replace what the replica that created the webhook has saved.
    async fn keep(&self, created: &Created) -> Result<bool, EndpointError> {
        let Created {
            webhook,
            secret,
            bearer_token,
            ..
        } = created;
        let mut kept = StoredSecret::new(&self.account_id, &webhook.id, Timestamp::UNIX_EPOCH);
        kept.created_at = webhook.created_at;
        kept.secret.clone_from(secret);
        kept.bearer_token = bearer_token
            .clone()
            .or_else(|| own_token(&self.input).cloned());
        let enough = self.is_enough(std::slice::from_ref(&kept), &webhook.id);
        if enough {
            self.secrets.save(&self.input.name, &kept).await?;
        }
        Ok(enough)
    }

    /// Whether AuthPI creates a secret for this spec.
    pub(super) fn makes_a_secret(&self) -> bool {
        match &self.input.auth {
            Some(CreateAuthInput::Signature(_) | CreateAuthInput::BearerSignature(_)) => true,
            Some(CreateAuthInput::Bearer(auth)) => auth.bearer_token.is_none(),
            Some(CreateAuthInput::None(_)) | None => false,
        }
    }

    /// Whether the secrets of a webhook are saved or can be obtained: from the replayed answer of
    /// the call that created it, or from a replica that is about to save them.
    pub(super) async fn has_secret(
        &self,
        ours: &Ours,
        kept: &[StoredSecret],
    ) -> Result<bool, EndpointError> {
        if self.is_enough(kept, ours.id()) || self.again(ours).await? {
            return Ok(true);
        }
        let until = Instant::now() + self.secret_wait;
        for round in 0.. {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            backoff::sleep_before_round(round, BACKOFF_INITIAL, BACKOFF_MAX.min(left)).await;
            if self.is_enough(&self.kept().await?, ours.id()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_enough(&self, kept: &[StoredSecret], webhook_id: &str) -> bool {
        let kept = kept.iter().find(|kept| kept.webhook_id == webhook_id);
        let (secret, token) = match &self.input.auth {
            Some(CreateAuthInput::Signature(_)) => (true, false),
            Some(CreateAuthInput::Bearer(_)) => (false, true),
            Some(CreateAuthInput::BearerSignature(_)) => (true, true),
            Some(CreateAuthInput::None(_)) | None => (false, false),
        };
        let has = |needed: bool, kept: Option<bool>| !needed || kept.unwrap_or(false);
        has(secret, kept.map(|kept| kept.secret.is_some()))
            && has(token, kept.map(|kept| kept.bearer_token.is_some()))
    }

    /// Repeats the call that created the webhook, if the call is known and recent enough for its
    /// answer to be replayed. The replica that made the call may have crashed before it saved the
    /// secret.
    async fn again(&self, ours: &Ours) -> Result<bool, EndpointError> {
        let Some(mark) = &ours.mark else {
            return Ok(false);
        };
        let made_at = ours
            .got
            .value
            .created_at
            .timestamp()
            .unwrap_or(Timestamp::MIN);
        let age = Duration::try_from(Timestamp::now().duration_since(made_at)).unwrap_or_default();
        if age > REPLAYED_FOR {
            return Ok(false);
        }
        for generation in 0..GENERATIONS {
            let making = Making::new(
                &self.webhooks.client,
                &self.account_id,
                self.spec,
                &mark.purpose,
                generation,
            )?;
            if making.mark != *mark {
                continue;
            }
            let created = self.create(&making).await?;
            if created.webhook.id == ours.id() {
                return self.keep(&created).await;
            }
            if !created.replayed {
                // AuthPI did not have the answer any more, and has created another webhook.
                self.webhooks.delete(&created.webhook.id).await?;
            }
            break;
        }
        Ok(false)
    }

    /// Advances the replacement of `head` by at least one step. Returns the id of the webhook that
    /// was deleted, if any.
    async fn replace(
        &self,
        head: &Ours,
        successor: Option<&Ours>,
        kept: &[StoredSecret],
    ) -> Result<Option<String>, EndpointError> {
        let old = match successor {
            None => {
                self.succeed(head, None).await?;
                // The next round checks whether that helped.
                return Ok(None);
            }
            Some(successor) => {
                let fit = !authenticates_otherwise(&self.input, &successor.got.value);
                // A successor that does not fit either is superfluous.
                if fit && self.has_secret(successor, kept).await? {
                    head
                } else {
                    successor
                }
            }
        };
        Ok(self.retire(old).await?.then(|| old.id().to_owned()))
    }

    /// Creates the webhook that replaces `old`, and saves its secret. If a successor was created
    /// before and has been deleted, creates another one, unless `old` is deleted too.
    pub(super) async fn succeed(
        &self,
        old: &Ours,
        rotation: Option<&str>,
    ) -> Result<(), EndpointError> {
        let purpose = Purpose {
            replaces: Some(old.id().to_owned()),
            rotation: rotation.map(str::to_owned),
        };
        for generation in 0.. {
            match self.make(&purpose, generation).await? {
                Made::There {
                    webhook_id,
                    fresh: true,
                    kept: false,
                } => {
                    // Its deliveries could not be verified, and another attempt would have the same
                    // result.
                    self.webhooks.delete(webhook_id).await?;
                    return Err(EndpointError::Unsettled(
                        "AuthPI returned no secret for the webhook's successor; the old webhook is kept",
                    ));
                }
                Made::There { .. } => break,
                Made::Gone if there(self.webhooks, old.id()).await?.is_none() => break,
                Made::Gone => {}
            }
        }
        Ok(())
    }

    /// Deletes a webhook, unless it was changed since it was read.
    pub(super) async fn delete(&self, ours: &Ours) -> Result<bool, Error> {
        let mut call = self.webhooks.delete(ours.id());
        if let Some(etag) = &ours.got.etag {
            call = call.if_match(etag);
        }
        match call.await {
            // This includes AuthPI's answer that the webhook does not exist, but not a gateway's
            // 404.
            Ok(_) => Ok(true),
            Err(error) if error.is_precondition_failed() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a replaced webhook. Its secrets are trusted for another hour, for deliveries in
    /// transit.
    pub(super) async fn retire(&self, ours: &Ours) -> Result<bool, EndpointError> {
        if !self.delete(ours).await? {
            return Ok(false);
        }
        let kept = self
            .kept()
            .await?
            .into_iter()
            .find(|kept| kept.webhook_id == ours.id());
        if let Some(kept) = kept {
            self.let_expire(kept).await?;
        }
        Ok(true)
    }

    async fn let_expire(&self, mut kept: StoredSecret) -> Result<(), EndpointError> {
        kept.valid_until = Some((Timestamp::now() + OVERLAP).into());
        Ok(self.secrets.save(&self.input.name, &kept).await?)
    }

    /// Updates a webhook as declared. Returns `None` if it no longer exists.
    async fn update(&self, ours: Ours, diff: &mut Diff) -> Result<Option<Ours>, EndpointError> {
        let Ours { got, mark } = ours;
        let (differs, _) = compare(&self.input, mark.as_ref(), &got.value)?;
        if differs.is_empty() {
            return Ok(Some(Ours { got, mark }));
        }
        let mut wrong = None;
        let edited = self.webhooks.update_with(&got.value.id, |webhook| {
            match compare(
                &self.input,
                super::ownership::Mark::of(webhook).as_ref(),
                webhook,
            ) {
                Ok((differs, patch)) => (!differs.is_empty()).then_some(patch),
                Err(error) => {
                    wrong = Some(error);
                    None
                }
            }
        });
        let edited = match edited.rounds(UPDATES).await {
            Err(error) if error.says_there_is_none() => return Ok(None),
            edited => edited?,
        };
        if let Some(wrong) = wrong {
            return Err(wrong.into());
        }
        let got = match edited {
            UpdateOutcome::Updated(updated) => {
                diff.add(differs);
                crate::client::WithETag {
                    value: updated.webhook,
                    etag: updated.etag,
                }
            }
            UpdateOutcome::Unchanged(got) => got,
        };
        let mark = super::ownership::Mark::of(&got.value);
        Ok(Some(Ours { got, mark }))
    }

    /// As [`update`](Self::update), for a webhook that may not exist.
    async fn update_all(
        &self,
        ours: Option<Ours>,
        diff: &mut Diff,
    ) -> Result<Option<Option<Ours>>, EndpointError> {
        match ours {
            Some(ours) => Ok(self.update(ours, diff).await?.map(Some)),
            None => Ok(Some(None)),
        }
    }

    /// Sets an expiry for the secrets of deleted webhooks, and removes expired ones.
    async fn tidy(
        &self,
        kept: &[StoredSecret],
        standing: [Option<&Ours>; 2],
    ) -> Result<(), EndpointError> {
        let now = Timestamp::now();
        let stands = |kept: &StoredSecret| {
            standing
                .iter()
                .flatten()
                .any(|ours| ours.id() == kept.webhook_id)
        };
        for kept in kept.iter().filter(|kept| !stands(kept)) {
            if kept.is_expired(now) {
                self.secrets
                    .forget(&self.input.name, &self.account_id, &kept.webhook_id)
                    .await?;
            } else if kept.valid_until.is_none()
                && there(self.webhooks, &kept.webhook_id).await?.is_none()
            {
                self.let_expire(kept.clone()).await?;
            }
        }
        Ok(())
    }
}

/// The bearer token in the spec.
fn own_token(input: &CreateWebhookInput) -> Option<&crate::signature::Secret> {
    match input.auth.as_ref()? {
        CreateAuthInput::Bearer(auth) => auth.bearer_token.as_ref(),
        CreateAuthInput::BearerSignature(auth) => auth.bearer_token.as_ref(),
        _ => None,
    }
}
