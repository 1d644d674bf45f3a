//! The key rings of a receiver, from stored secrets.

use std::{convert::Infallible, time::Duration};

use jiff::Timestamp;

use super::{SecretStore, StoredSecret};
use crate::{
    signature::{KeyRing, KeyRingError, MAX_KEYS, Secret},
    telemetry::LogLimit,
};

/// The key rings of an endpoint's receiver. Each secret is named by its webhook's id, so
/// [`Verified::key_name`](crate::signature::Verified::key_name) and [`KeyRing::last_match`] show
/// which webhook sent a delivery.
///
/// ```no_run
/// # use std::time::Duration;
/// use authpi_sdk::{endpoint::{FileSecretStore, SecretStore as _}, signature::Verifier};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let secrets = FileSecretStore::new("/var/lib/billing/authpi-secrets.json");
/// let keys = secrets.keys("users").await?;
/// let verifier = Verifier::authpi(keys.signatures.clone());
/// // After a rotation by another replica, this one loads the new secret within ten seconds.
/// tokio::spawn(async move { keys.follow(&secrets, "users", Duration::from_secs(10)).await });
/// # let _ = verifier;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EndpointKeys {
    /// The secrets that deliveries may be signed with.
    pub signatures: KeyRing,
    /// The bearer tokens that deliveries may have.
    pub bearer_tokens: KeyRing,
}

impl EndpointKeys {
    /// The newest [`MAX_KEYS`] (4) secrets that are still trusted, each until it expires.
    ///
    /// It does not distinguish accounts, since a store is meant for one account. If `kept` has
    /// secrets of several accounts under one endpoint name, filter them by
    /// [`StoredSecret::account_id`]; otherwise, the receiver accepts deliveries of all these
    /// accounts.
    pub fn of(kept: &[StoredSecret]) -> Self {
        let now = Timestamp::now();
        let mut trusted: Vec<_> = kept.iter().filter(|kept| !kept.is_expired(now)).collect();
        trusted.sort_by(|a, b| (b.created_at, &b.webhook_id).cmp(&(a.created_at, &a.webhook_id)));
        let ring = |secret: fn(&StoredSecret) -> Option<&Secret>| {
            let some = trusted
                .iter()
                .filter_map(|kept| Some((kept, secret(kept)?)))
                .take(MAX_KEYS);
            some.fold(KeyRing::new(), |ring, (kept, secret)| {
                match kept.valid_until.and_then(|until| until.timestamp().ok()) {
                    Some(until) => ring.with_during(&*kept.webhook_id, secret.clone(), ..=until),
                    None => ring.with(&*kept.webhook_id, secret.clone()),
                }
            })
        };
        Self {
            signatures: ring(|kept| kept.secret.as_ref()),
            bearer_tokens: ring(|kept| kept.bearer_token.as_ref()),
        }
    }

    /// Replaces the secrets with those of `next`, in every receiver that uses these rings. Secrets
    /// that `next` does not have are no longer trusted. If no secret is left, the receiver answers
    /// each delivery with 500 until there is another one.
    ///
    /// # Errors
    /// When a secret is empty, or two have the same name. Then nothing is changed.
    pub fn replace(&self, next: &Self) -> Result<(), KeyRingError> {
        let rings = [
            (&self.signatures, &next.signatures),
            (&self.bearer_tokens, &next.bearer_tokens),
        ];
        rings.iter().try_for_each(|(_, next)| next.check())?;
        rings.iter().try_for_each(|(ring, next)| {
            if next.is_empty() {
                ring.clear();
                return Ok(());
            }
            ring.replace(next)
        })
    }

    /// Loads the secrets from the store every `period` (at least 100 ms), for as long as the future
    /// is polled. So this replica gets the secrets that another replica has stored, rotated or
    /// removed.
    ///
    /// A secret that was removed, or whose `valid_until` has passed, is no longer trusted, even if
    /// it was the last one. In that case, an error is logged, and every delivery is answered with
    /// 500.
    ///
    /// If the store fails, that is logged, and the rings stay unchanged.
    pub async fn follow(
        &self,
        store: &impl SecretStore,
        endpoint: &str,
        period: Duration,
    ) -> Infallible {
        let (mut known, log) = (None, LogLimit::new());
        loop {
            match store.load(endpoint).await {
                Ok(mut kept) => {
                    // Secrets also expire with time.
                    let now = Timestamp::now();
                    kept.retain(|kept| !kept.is_expired(now));
                    if known.as_ref() != Some(&kept) {
                        match self.replace(&Self::of(&kept)) {
                            Ok(()) => known = Some(kept),
                            Err(error) => log.write("the stored secrets are not usable", "", |left_out| {
                                tracing::warn!(endpoint, %error, left_out, "the stored secrets are not usable");
                            }),
                        }
                        if self.signatures.is_empty() && self.bearer_tokens.is_empty() {
                            tracing::error!(
                                endpoint,
                                "no secret left: every delivery is refused until one is stored"
                            );
                        }
                    }
                }
                Err(error) => log.write("could not load secrets", "", |left_out| {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(endpoint, error, left_out, "could not load secrets");
                }),
            }
            tokio::time::sleep(period.max(Duration::from_millis(100))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(id: &str, created: i64) -> StoredSecret {
        let created = Timestamp::from_millisecond(created).unwrap();
        StoredSecret {
            secret: Some(format!("whs_{id}").into()),
            ..StoredSecret::new("acc_1", id, created)
        }
    }

    #[test]
    fn the_newest_four_that_are_still_trusted_make_the_ring() {
        let mut all: Vec<_> = (1..=6).map(|n| kept(&format!("wh_{n}"), n)).collect();
        all[5].valid_until = Some(crate::UnixMillis(1));
        all[4].valid_until = Some((Timestamp::now() + Duration::from_hours(1)).into());
        assert_eq!(
            EndpointKeys::of(&all).signatures.names(),
            ["wh_5", "wh_4", "wh_3", "wh_2"]
        );
        assert!(EndpointKeys::of(&all).bearer_tokens.is_empty());
    }

    #[test]
    fn replacing_the_last_secret_by_none_leaves_none() {
        let keys = EndpointKeys::of(&[kept("wh_1", 1)]);
        let clone = keys.signatures.clone();
        keys.replace(&EndpointKeys::default()).unwrap();
        assert!(clone.is_empty());
        keys.replace(&EndpointKeys::of(&[kept("wh_2", 1)])).unwrap();
        assert_eq!(keys.signatures.names(), ["wh_2"]);
    }

    #[test]
    fn no_kept_secret_is_in_debug() {
        let shown = format!(
            "{:?} {:?}",
            kept("wh_1", 1),
            EndpointKeys::of(&[kept("wh_1", 1)])
        );
        assert!(!shown.contains("whs_"), "{shown}");
    }
}
