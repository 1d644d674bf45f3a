//! Rotates an endpoint's secret, so that every delivery can still be verified.

use std::{fmt, future::IntoFuture, pin::Pin, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    EndpointError,
    apply::{DEFAULT_SECRET_WAIT, EnsureRun},
    discover::{Ours, Standing, there},
};
use crate::{
    client::{Webhook, WebhookSpec, Webhooks, transport::Error},
    endpoint::secrets::{EndpointKeys, SecretStore},
    signature::KeyRing,
};

/// The maximum number of rounds, if other replicas rotate at the same time.
const ROUNDS: u32 = 16;

impl Webhooks {
    /// Replaces the endpoint's secret, with documented calls only. It creates a second webhook with
    /// the same name and URL, and saves its secret in the store. When all receivers know the new
    /// secret, call [`Rotation::finish`], which deletes the first webhook. In between, both
    /// webhooks deliver, and the ledger recognizes the duplicates.
    ///
    /// `name` identifies this rotation, such as `2026-11`. It makes the call repeatable: with the
    /// same name, it continues after a crash, from any replica, and does nothing once it is
    /// finished. Each rotation needs a new name.
    ///
    /// The endpoint must [exist](Webhooks::ensure). The second webhook is created from the spec;
    /// manual changes to the first are not carried over. It starts active, whatever the status of
    /// the first.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use authpi_sdk::{client::{Client, WebhookSpec}, endpoint::{EndpointKeys, FileSecretStore, SecretStore as _}};
    /// # async fn example(authpi: Client, spec: WebhookSpec, secrets: FileSecretStore, keys: EndpointKeys) -> Result<(), Box<dyn std::error::Error>> {
    /// let rotation = authpi.webhooks().rotate("2026-11", &spec, &secrets).await?;
    /// // From now on, this receiver knows both secrets. Others load them from the store, with `EndpointKeys::follow`.
    /// keys.replace(&rotation.keys().await?)?;
    /// if rotation.in_use(&keys.signatures, Duration::from_secs(3600)).await {
    ///     rotation.finish().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for `ensure`. Also an [invalid argument](Error::is_invalid_argument) when the endpoint
    /// does not exist, when AuthPI does not create a secret for the spec, or when a rotation with
    /// another name is in progress: finish that one first.
    pub fn rotate<'s, S: SecretStore>(
        &self,
        name: impl Into<String>,
        spec: &WebhookSpec,
        secrets: &'s S,
    ) -> Rotate<'s, S> {
        Rotate {
            webhooks: self.clone(),
            name: name.into(),
            spec: spec.clone(),
            secrets,
        }
    }
}

/// A rotation that begins when it is awaited: see [`Webhooks::rotate`].
#[must_use = "does nothing until awaited"]
pub struct Rotate<'s, S> {
    webhooks: Webhooks,
    name: String,
    spec: WebhookSpec,
    secrets: &'s S,
}

impl<S> fmt::Debug for Rotate<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotate")
            .field("name", &self.name)
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl<'s, S: SecretStore> IntoFuture for Rotate<'s, S> {
    type Output = Result<Rotation<'s, S>, EndpointError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 's>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (old, new) = {
                let work = EnsureRun::new(
                    &self.webhooks,
                    &self.spec,
                    self.secrets,
                    DEFAULT_SECRET_WAIT,
                )
                .await?;
                begin(&work, &self.name).await?
            };
            Ok(Rotation {
                webhooks: self.webhooks,
                spec: self.spec,
                secrets: self.secrets,
                old,
                new,
            })
        })
    }
}

/// The webhook to be deleted, if it still exists, and the one that replaces it.
async fn begin<S: SecretStore>(
    work: &EnsureRun<'_, S>,
    name: &str,
) -> Result<(Option<Ours>, Webhook), EndpointError> {
    if !work.makes_a_secret() {
        let why = "nothing to rotate: the spec's authentication has no secret";
        return Err(Error::invalid_argument(why).into());
    }
    for _ in 0..ROUNDS {
        let kept = work.kept().await?;
        let Standing {
            head, successor, ..
        } = work.look(&kept).await?;
        let named = |ours: &Ours| {
            ours.mark
                .as_ref()
                .and_then(|mark| mark.purpose.rotation.as_deref())
                == Some(name)
        };
        match (head, successor) {
            (None, _) => {
                let why =
                    "no webhook with this name and URL has a secret to rotate: call ensure first";
                return Err(Error::invalid_argument(why).into());
            }
            (Some(head), None) if named(&head) => return Ok((None, head.got.value)),
            (Some(head), None) => {
                work.succeed(&head, Some(name)).await?;
            }
            (Some(_), Some(successor)) if !named(&successor) => {
                let why = "another rotation or replacement is in progress: finish it first, under its own name or with `ensure`";
                return Err(Error::invalid_argument(why).into());
            }
            (Some(head), Some(successor)) => {
                if work.has_secret(&successor, &kept).await? {
                    return Ok((Some(head), successor.got.value));
                }
                // The replica that created it has not saved its secret. Create another one.
                work.retire(&successor).await?;
            }
        }
    }
    Err(EndpointError::Unsettled(
        "the rotation did not converge: something else keeps changing the webhooks",
    ))
}

/// A rotation in progress: both webhooks deliver, and the store has the secrets of both.
#[must_use = "a rotation only ends with `finish`"]
pub struct Rotation<'s, S> {
    webhooks: Webhooks,
    spec: WebhookSpec,
    secrets: &'s S,
    old: Option<Ours>,
    new: Webhook,
}

/// When this process last verified a delivery of each webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastMatches {
    /// With the old secret.
    pub old: Option<Timestamp>,
    /// With the new one.
    pub new: Option<Timestamp>,
}

impl<S: SecretStore> Rotation<'_, S> {
    /// The webhook to be deleted; `None` if the rotation was finished before.
    pub fn old(&self) -> Option<&Webhook> {
        self.old.as_ref().map(|ours| &ours.got.value)
    }

    /// The webhook that replaces it.
    pub fn new_webhook(&self) -> &Webhook {
        &self.new
    }

    /// The keys of both webhooks, for [`EndpointKeys::replace`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keys(&self) -> Result<EndpointKeys, EndpointError> {
        Ok(self.secrets.keys(&self.spec.to_input().name).await?)
    }

    /// When the secret of each webhook last matched a delivery in this process, from
    /// [`KeyRing::last_match`].
    pub fn matches(&self, ring: &KeyRing) -> LastMatches {
        let of = |webhook: &Webhook| ring.last_match(&webhook.id);
        LastMatches {
            old: self.old().and_then(of),
            new: of(&self.new),
        }
    }

    /// Waits until the new secret has matched a delivery in this process, for at most `within`.
    /// Returns whether it has. Without events, there are no deliveries, so `false` does not imply a
    /// problem.
    pub async fn in_use(&self, ring: &KeyRing, within: Duration) -> bool {
        let until = Instant::now() + within.min(Duration::from_hours(24 * 365));
        loop {
            if ring.last_match(&self.new.id).is_some() {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    /// Deletes the old webhook, if the new one still exists. Call it when every receiver knows the
    /// new secret. The old secret remains trusted for another hour, for deliveries in transit. The
    /// failed deliveries of the old webhook are deleted with it; the new one has been sent the same
    /// events since it was created.
    ///
    /// It may be called again, from any replica: it is not an error if the old webhook no longer
    /// exists.
    ///
    /// # Errors
    /// When a call or the store fails, and [`EndpointError::Unsettled`] when the new webhook no
    /// longer exists. The old one is then kept, and [`Webhooks::rotate`] starts the same rotation
    /// again.
    pub async fn finish(&self) -> Result<(), EndpointError> {
        let Some(old) = &self.old else { return Ok(()) };
        let work = EnsureRun::new(&self.webhooks, &self.spec, self.secrets, Duration::ZERO).await?;
        // Without the new webhook, nothing would be delivered any more. If neither exists, another
        // replica has finished this rotation, or a later one.
        if there(&self.webhooks, &self.new.id).await?.is_none()
            && there(&self.webhooks, old.id()).await?.is_some()
        {
            return Err(EndpointError::Unsettled(
                "the new webhook no longer exists, and the old one is kept: rotate again",
            ));
        }
        let mut old = old.clone();
        for _ in 0..ROUNDS {
            if work.retire(&old).await? {
                return Ok(());
            }
            // It was changed since.
            match there(&self.webhooks, old.id()).await? {
                Some(got) => old.got = got,
                // It no longer exists. The next `retire`, without an ETag, succeeds and lets its
                // stored secret expire.
                None => old.got.etag = None,
            }
        }
        Err(EndpointError::Unsettled(
            "could not delete the old webhook: something else keeps changing it",
        ))
    }
}

impl<S> fmt::Debug for Rotation<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation")
            .field("old", &self.old.as_ref().map(Ours::id))
            .field("new", &self.new.id)
            .finish_non_exhaustive()
    }
}
