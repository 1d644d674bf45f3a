//! Distinguishes our webhooks from others, and our `create` calls from each other.
//!
//! AuthPI documents `metadata` as key-value pairs on every resource that only administrators see.
//! So the mark consists of a few text members of it. (`description` is also shown in lists, but it
//! is for people.)

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::{
    RawJson,
    client::{Client, Error, Webhook, WebhookSpec, transport::idempotency},
    hex,
    json::{FromRaw as _, Raw, members},
};

/// The fingerprint of the idempotency key with which the webhook was created. It makes the webhook
/// ours.
const KEY: &str = "authpi_sdk_key";
/// The id of the webhook that this one replaces.
const REPLACES: &str = "authpi_sdk_replaces";
/// The name of the rotation that created it.
const ROTATION: &str = "authpi_sdk_rotation";

/// The mark of one of our webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: String,
    pub(super) purpose: Purpose,
}

/// Why a webhook is created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Purpose {
    pub(super) replaces: Option<String>,
    pub(super) rotation: Option<String>,
}

impl Mark {
    pub(super) fn of(webhook: &Webhook) -> Option<Self> {
        let (mut key, mut replaces, mut rotation) = (None, None, None);
        let read = |value: Raw<'_>| String::from_raw(value).ok();
        members(webhook.metadata.as_ref()?.raw(), &mut |name, value| {
            match name {
                KEY => key = read(value),
                REPLACES => replaces = read(value),
                ROTATION => rotation = read(value),
                _ => {}
            }
            Ok(())
        })
        .ok()?;
        Some(Self {
            key: key?,
            purpose: Purpose { replaces, rotation },
        })
    }

    /// The existing metadata, overwritten with that of the spec and this mark.
    pub(super) fn onto(
        &self,
        there: Option<&RawJson>,
        declared: Option<&RawJson>,
    ) -> Result<RawJson, Error> {
        let mut all = BTreeMap::<String, RawJson>::new();
        // In our own spec, metadata that is not an object is an error. In AuthPI's answer, it is
        // ignored.
        if let Some(Ok(there)) = there.map(RawJson::read::<BTreeMap<_, _>>) {
            all.extend(there);
        }
        let not_an_object =
            |_| Error::invalid_argument("the spec's metadata must be a JSON object");
        if let Some(declared) = declared {
            all.extend(declared.read::<BTreeMap<_, _>>().map_err(not_an_object)?);
        }
        let Purpose { replaces, rotation } = &self.purpose;
        for (name, text) in [
            (KEY, Some(&self.key)),
            (REPLACES, replaces.as_ref()),
            (ROTATION, rotation.as_ref()),
        ] {
            if let Some(text) = text {
                all.insert(name.to_owned(), RawJson::new(text).map_err(not_an_object)?);
            }
        }
        RawJson::new(&all).map_err(not_an_object)
    }
}

/// A `create` call that any replica with the same spec and credential can repeat.
pub(super) struct Making {
    pub(super) idempotency_key: String,
    /// The spec with the mark.
    pub(super) spec: WebhookSpec,
    pub(super) mark: Mark,
}

impl Making {
    /// The call of one generation. A credential that changes, such as a token from a source, has no
    /// lasting secret to derive a key from. The key is then random, and other replicas cannot
    /// repeat the call.
    pub(super) fn new(
        client: &Client,
        account_id: &str,
        spec: &WebhookSpec,
        purpose: &Purpose,
        generation: u32,
    ) -> Result<Self, Error> {
        let idempotency_key = match client.settings().credentials.lasting_secret() {
            Some(secret) => derived(secret, account_id, spec, purpose, generation)?,
            None => idempotency::fresh()?,
        };
        let mark = Mark {
            key: fingerprint(&idempotency_key),
            purpose: purpose.clone(),
        };
        let metadata = mark.onto(None, spec.to_input().metadata.as_ref())?;
        Ok(Self {
            spec: spec.clone().metadata(metadata),
            idempotency_key,
            mark,
        })
    }
}

fn derived(
    secret: &[u8],
    account_id: &str,
    spec: &WebhookSpec,
    purpose: &Purpose,
    generation: u32,
) -> Result<String, Error> {
    let body = serde_json::to_vec(&spec.to_input())
        .map_err(|_| Error::invalid_argument("the spec is not valid JSON"))?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret)
        .map_err(|_| Error::invalid_argument("the credential cannot be used as a key"))?;
    let input = spec.to_input();
    let Purpose { replaces, rotation } = purpose;
    let parts = [
        Some("authpi-sdk ensure 1"),
        Some(account_id),
        Some(&input.name),
        Some(&input.url),
        replaces.as_deref(),
        rotation.as_deref(),
    ];
    for part in parts
        .map(|part| part.map(str::as_bytes))
        .into_iter()
        .chain([Some(&body[..])])
    {
        // Each part with its length, so that different lists of parts never give the same input.
        mac.update(
            &part
                .map_or(u64::MAX, |part| part.len() as u64)
                .to_le_bytes(),
        );
        mac.update(part.unwrap_or_default());
    }
    mac.update(&generation.to_le_bytes());
    Ok(format!(
        "ensure-{}",
        hex::encode(&mac.finalize().into_bytes())
    ))
}

/// Identifies the key without revealing it.
fn fingerprint(idempotency_key: &str) -> String {
    hex::encode(&Sha256::digest(idempotency_key)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventType;

    fn key(
        secret: &str,
        account: &str,
        spec: &WebhookSpec,
        purpose: &Purpose,
        generation: u32,
    ) -> String {
        derived(secret.as_bytes(), account, spec, purpose, generation).unwrap()
    }

    #[test]
    fn a_key_is_the_same_for_the_same_and_another_for_anything_else() {
        let spec =
            WebhookSpec::new("users", "https://example.com/h").events([EventType::UserCreated]);
        let none = Purpose::default();
        let rotation = Purpose {
            replaces: Some("wh_1".into()),
            rotation: Some("2026-11".into()),
        };
        let replacing = Purpose {
            rotation: None,
            ..rotation.clone()
        };
        let first = key("s", "acc_1", &spec, &none, 0);
        assert_eq!(first, key("s", "acc_1", &spec, &none, 0));
        assert_eq!(first.len(), "ensure-".len() + 64);
        let others = [
            key("t", "acc_1", &spec, &none, 0),
            key("s", "acc_2", &spec, &none, 0),
            key(
                "s",
                "acc_1",
                &spec.clone().events([EventType::UserDeleted]),
                &none,
                0,
            ),
            key(
                "s",
                "acc_1",
                &WebhookSpec::new("user", "https://example.com/h").all_events(),
                &none,
                0,
            ),
            key("s", "acc_1", &spec, &rotation, 0),
            key("s", "acc_1", &spec, &replacing, 0),
            key("s", "acc_1", &spec, &none, 1),
        ];
        let mut all: Vec<_> = others.iter().chain([&first]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), others.len() + 1);
    }

    #[test]
    fn a_mark_is_found_again_and_leaves_other_metadata_alone() {
        let json = |text: &str| {
            RawJson::new(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap()
        };
        let purpose = Purpose {
            replaces: Some("wh_1".into()),
            rotation: None,
        };
        let mark = Mark {
            key: "ab".into(),
            purpose,
        };
        let metadata = mark
            .onto(
                Some(&json(r#"{"a":1,"team":"x"}"#)),
                Some(&json(r#"{"team":"y"}"#)),
            )
            .unwrap();
        assert_eq!(
            metadata.get(),
            r#"{"a":1,"authpi_sdk_key":"ab","authpi_sdk_replaces":"wh_1","team":"y"}"#
        );
        assert!(
            mark.onto(None, Some(&json("[1]")))
                .unwrap_err()
                .is_invalid_argument()
        );
    }
}
