//! Webhook endpoints.

use std::collections::BTreeMap;

use super::{
    BearerAuth, BearerSignatureAuth, NoneAuth, SignatureAuth, Webhook, WebhookAuth,
    WebhookListItem, WebhookStatus,
    infer::{self, Applied},
    spec::{WebhookPatch, WebhookSpec},
};
use crate::{
    RawJson,
    client::transport::{
        Attempt, Built, Call, Client, Conditional, ETag, Error, Keyed, Operation, Page, Paged,
        Recheck, Reply, Response, WithETag,
        call::sealed::{PageParams, ToRequest},
        check_ids,
        page::PageWire,
    },
    event::Extra,
    generated::api::{
        operations,
        types::{
            BearerAuthWithSecret, BearerSignatureAuthWithSecrets,
            CreateWebhookResponseAuth as WithSecrets, SignatureAuthWithSecret, WebhookResponse,
            WebhookWithSecretsResponse,
        },
    },
    json::{FromRaw as _, members},
    signature::Secret,
};

/// The webhooks of an account: see [`Client::webhooks`].
#[derive(Clone, Debug)]
pub struct Webhooks {
    pub(crate) client: Client,
}

impl Client {
    /// Webhook endpoints and their deliveries.
    pub fn webhooks(&self) -> Webhooks {
        Webhooks {
            client: self.clone(),
        }
    }
}

impl Webhooks {
    /// Lists the account's webhooks, page by page. The list may contain deleted webhooks.
    pub fn list(&self) -> Call<ListWebhooks> {
        Call::new(
            &self.client,
            ListWebhooks {
                status: None,
                limit: None,
                cursor: None,
            },
        )
    }

    /// Creates a webhook. Its secrets are in the answer, and are shown only once.
    pub fn create(&self, spec: &WebhookSpec) -> Call<CreateWebhook> {
        Call::new(&self.client, CreateWebhook { spec: spec.clone() })
    }

    /// Returns one webhook with its ETag.
    pub fn get(&self, webhook_id: impl Into<String>) -> Call<GetWebhook> {
        Call::new(
            &self.client,
            GetWebhook {
                webhook_id: webhook_id.into(),
            },
        )
    }

    /// Changes a webhook. Members that the patch does not set stay unchanged.
    ///
    /// With [`Call::if_match`], the client can retry this call. If an answer was lost, it reads the
    /// webhook, and [`Updated::applied`] says how it is known that the change was made. A new
    /// secret in a lost answer cannot be recovered: [`Error::is_secret_lost`].
    pub fn update(
        &self,
        webhook_id: impl Into<String>,
        patch: &WebhookPatch,
    ) -> Call<UpdateWebhook> {
        Call::new(
            &self.client,
            UpdateWebhook {
                webhook_id: webhook_id.into(),
                patch: patch.clone(),
            },
        )
    }

    /// Deletes a webhook. A webhook that does not exist counts as deleted, even if its id or the
    /// account is wrong, since AuthPI answers `not_found` (404) for these as well: see
    /// [`Deleted::applied`]. Any other 404, such as a gateway's, is an error.
    pub fn delete(&self, webhook_id: impl Into<String>) -> Call<DeleteWebhook> {
        Call::new(
            &self.client,
            DeleteWebhook {
                webhook_id: webhook_id.into(),
            },
        )
    }
}

/// A webhook that was just created.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Created {
    /// The webhook, without secrets.
    pub webhook: Webhook,
    /// The secret that signs its deliveries, if any. **AuthPI shows it only once.**
    pub secret: Option<Secret>,
    /// The bearer token of its deliveries, if any. **AuthPI shows it only once.**
    pub bearer_token: Option<Secret>,
    /// The ETag of the webhook's state, for [`Call::if_match`].
    pub etag: Option<ETag>,
    /// Whether this is the stored answer to an earlier call with the same idempotency key. The
    /// webhook may have been changed or deleted since.
    pub replayed: bool,
}

/// A webhook that was just changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Updated {
    /// The webhook after the change, without secrets.
    pub webhook: Webhook,
    /// The new secret that signs its deliveries, if the change created one. **AuthPI shows it only
    /// once.**
    pub secret: Option<Secret>,
    /// The new bearer token of its deliveries, if the change created one. **AuthPI shows it only
    /// once.**
    pub bearer_token: Option<Secret>,
    /// The ETag of the webhook's new state, for [`Call::if_match`].
    pub etag: Option<ETag>,
    /// How it is known that the change was made. `Inferred`: the answer was lost, and the webhook's
    /// state matches the patch.
    pub applied: Applied,
}

/// A deleted webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deleted {
    /// How it is known that the webhook is deleted. `Inferred`: there is no such webhook. This call
    /// or another one deleted it, or it never existed, perhaps because the id or the account is
    /// wrong.
    pub applied: Applied,
}

/// `GET /webhooks`: see [`Webhooks::list`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListWebhooks {
    status: Option<WebhookStatus>,
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Call<ListWebhooks> {
    /// Only webhooks with this status. AuthPI documents `active`, `disabled` and `deleted` here.
    pub fn status(mut self, status: WebhookStatus) -> Self {
        self.operation.status = Some(status);
        self
    }
}

impl Operation for ListWebhooks {
    type Output = Page<WebhookListItem>;
}

impl Paged for ListWebhooks {
    type Item = WebhookListItem;
}

impl PageParams for ListWebhooks {
    fn window(&mut self) -> (&mut Option<u32>, &mut Option<String>) {
        (&mut self.limit, &mut self.cursor)
    }
}

impl ToRequest for ListWebhooks {
    type Wire = PageWire<WebhookListItem>;
    const OPERATION: operations::Operation = operations::WEBHOOKS_LIST;

    fn request(&self, at: &Attempt<'_>) -> Built<PageWire<WebhookListItem>> {
        let status = self.status.as_ref().map(WebhookStatus::as_str);
        Ok(at
            .api
            .webhooks_list(
                at.account,
                self.cursor.as_deref(),
                self.limit.map(i64::from),
                status,
            )?
            .read_as())
    }

    fn read(reply: Reply<PageWire<WebhookListItem>>) -> Page<WebhookListItem> {
        reply.value.into()
    }
}

/// `POST /webhooks`: see [`Webhooks::create`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CreateWebhook {
    spec: WebhookSpec,
}

impl Operation for CreateWebhook {
    type Output = Created;
}

impl Keyed for CreateWebhook {}

impl ToRequest for CreateWebhook {
    type Wire = WebhookWithSecretsResponse;
    const OPERATION: operations::Operation = operations::WEBHOOKS_CREATE;

    fn check(&self) -> Result<(), Error> {
        self.spec.check()
    }

    fn request(&self, at: &Attempt<'_>) -> Built<WebhookWithSecretsResponse> {
        at.api
            .webhooks_create(at.account, at.idempotency_key, &self.spec.to_input())
    }

    fn read(reply: Reply<WebhookWithSecretsResponse>) -> Created {
        let (etag, replayed) = (ETag::of(&reply.headers), Response::replayed(&reply.headers));
        let Parted {
            webhook,
            secret,
            bearer_token,
        } = part(reply.value);
        Created {
            webhook,
            secret,
            bearer_token,
            etag,
            replayed,
        }
    }
}

/// `GET /webhooks/{webhook_id}`: see [`Webhooks::get`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GetWebhook {
    webhook_id: String,
}

impl Operation for GetWebhook {
    type Output = WithETag<Webhook>;
}

impl ToRequest for GetWebhook {
    type Wire = WebhookResponse;
    const OPERATION: operations::Operation = operations::WEBHOOKS_GET;

    fn check(&self) -> Result<(), Error> {
        check_ids([("webhook", &*self.webhook_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<WebhookResponse> {
        at.api.webhooks_get(at.account, &self.webhook_id)
    }

    fn read(reply: Reply<WebhookResponse>) -> WithETag<Webhook> {
        reply.tagged(|response| response.data)
    }
}

/// `PATCH /webhooks/{webhook_id}`: see [`Webhooks::update`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpdateWebhook {
    webhook_id: String,
    patch: WebhookPatch,
}

impl Operation for UpdateWebhook {
    type Output = Updated;
}

impl Conditional for UpdateWebhook {}

impl ToRequest for UpdateWebhook {
    type Wire = WebhookWithSecretsResponse;
    const OPERATION: operations::Operation = operations::WEBHOOKS_UPDATE;

    fn check(&self) -> Result<(), Error> {
        check_ids([("webhook", &*self.webhook_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<WebhookWithSecretsResponse> {
        let body = self.patch.as_input();
        at.api.webhooks_update(
            at.account,
            &self.webhook_id,
            at.idempotency_key,
            at.if_match,
            body,
        )
    }

    fn read(reply: Reply<WebhookWithSecretsResponse>) -> Updated {
        let etag = ETag::of(&reply.headers);
        let Parted {
            webhook,
            secret,
            bearer_token,
        } = part(reply.value);
        Updated {
            webhook,
            secret,
            bearer_token,
            etag,
            applied: Applied::Confirmed,
        }
    }

    async fn settle(&self, refused: Error, look: Recheck<'_>) -> Result<Updated, Error> {
        if !(look.fate_unknown && (refused.is_precondition_failed() || refused.is_not_found())) {
            return Err(refused);
        }
        let WithETag {
            value: webhook,
            etag,
        } = match look
            .ask(GetWebhook {
                webhook_id: self.webhook_id.clone(),
            })
            .await
        {
            Ok(seen) => seen,
            Err(error) if error.is_not_found() => return Err(refused),
            Err(unseen) => return Err(refused.caused_by(unseen)),
        };
        let patch = self.patch.as_input();
        if webhook.status == Some(WebhookStatus::Deleted) || !infer::holds(patch, &webhook) {
            Err(refused)
        } else if infer::makes_a_secret(patch) {
            Err(refused.secret_is_lost())
        } else {
            Ok(Updated {
                webhook,
                secret: None,
                bearer_token: None,
                etag,
                applied: Applied::Inferred,
            })
        }
    }

    fn shows_a_secret_once(&self) -> bool {
        infer::makes_a_secret(self.patch.as_input())
    }
}

/// `DELETE /webhooks/{webhook_id}`: see [`Webhooks::delete`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeleteWebhook {
    webhook_id: String,
}

impl Operation for DeleteWebhook {
    type Output = Deleted;
}

impl Conditional for DeleteWebhook {}

impl ToRequest for DeleteWebhook {
    type Wire = ();
    const OPERATION: operations::Operation = operations::WEBHOOKS_DELETE;

    fn check(&self) -> Result<(), Error> {
        check_ids([("webhook", &*self.webhook_id)])
    }

    fn request(&self, at: &Attempt<'_>) -> Built<()> {
        at.api
            .webhooks_delete(at.account, &self.webhook_id, at.if_match)
    }

    fn read(_: Reply<()>) -> Deleted {
        Deleted {
            applied: Applied::Confirmed,
        }
    }

    async fn settle(&self, refused: Error, look: Recheck<'_>) -> Result<Deleted, Error> {
        let gone = Ok(Deleted {
            applied: Applied::Inferred,
        });
        if refused.says_there_is_none() {
            return gone;
        }
        // After a 412, checks whether the webhook is deleted, even if this was the first attempt: a
        // deleted webhook may still be readable, with another ETag than the caller's.
        if !(refused.is_precondition_failed() || look.fate_unknown && refused.is_not_found()) {
            return Err(refused);
        }
        match look
            .ask(GetWebhook {
                webhook_id: self.webhook_id.clone(),
            })
            .await
        {
            Ok(seen) if seen.value.status == Some(WebhookStatus::Deleted) => gone,
            Ok(_) => Err(refused),
            Err(error) if error.says_there_is_none() => gone,
            Err(unseen) => Err(refused.caused_by(unseen)),
        }
    }
}

/// A webhook and its one-time secrets, separated.
struct Parted {
    webhook: Webhook,
    secret: Option<Secret>,
    bearer_token: Option<Secret>,
}

/// AuthPI's guide shows the secrets at the top level, AuthPI's own SDK under `auth`. Both are read,
/// `auth` first.
fn part(response: WebhookWithSecretsResponse) -> Parted {
    let from = response.data;
    let secret = under_auth(&from.auth, "signature_secret_plain").or(from.signature_secret_plain);
    let bearer_token = under_auth(&from.auth, "bearer_token_plain").or(from.bearer_token_plain);
    let webhook = Webhook {
        id: from.id,
        account_id: from.account_id,
        name: from.name,
        description: from.description,
        url: from.url,
        status: from.status,
        status_at: from.status_at,
        status_reason: from.status_reason,
        status_by: from.status_by,
        auth: without_secrets(from.auth),
        events: from.events,
        subjects: from.subjects,
        retry: from.retry,
        circuit_breaker: from.circuit_breaker,
        metadata: from.metadata,
        created_at: from.created_at,
        updated_at: from.updated_at,
    };
    Parted {
        webhook,
        secret,
        bearer_token,
    }
}

/// The one-time secret in the member `name` of `auth`. It is read even if `auth` is of an unknown
/// kind, or of a kind whose Rust type has no field for it.
fn under_auth(auth: &WithSecrets, name: &str) -> Option<Secret> {
    let extra = |extra: &Extra| extra.read::<Secret>(name).ok().flatten();
    let (field, extra) = match auth {
        WithSecrets::None(auth) => (None, extra(&auth.extra)),
        WithSecrets::Bearer(auth) => (
            auth.bearer_token_plain.as_ref().filter(|_| name == BEARER),
            extra(&auth.extra),
        ),
        WithSecrets::Signature(auth) => (
            auth.signature_secret_plain
                .as_ref()
                .filter(|_| name == SIGNATURE),
            extra(&auth.extra),
        ),
        WithSecrets::BearerSignature(auth) => {
            let field = if name == BEARER {
                &auth.bearer_token_plain
            } else {
                &auth.signature_secret_plain
            };
            (field.as_ref(), extra(&auth.extra))
        }
        WithSecrets::Unknown(other) => {
            let mut found = None;
            let _ = members(other.json().raw(), &mut |member, value| {
                if member == name {
                    found = Secret::from_raw(value).ok();
                }
                Ok(())
            });
            (None, found)
        }
    };
    field.cloned().or(extra)
}

const SIGNATURE: &str = "signature_secret_plain";
const BEARER: &str = "bearer_token_plain";

/// The authentication as `get` shows it.
fn without_secrets(auth: WithSecrets) -> WebhookAuth {
    match auth {
        WithSecrets::None(NoneAuth { extra }) => WebhookAuth::None(NoneAuth {
            extra: shown(extra),
        }),
        WithSecrets::Bearer(BearerAuthWithSecret {
            bearer_token_hint,
            bearer_token_plain: _,
            extra,
        }) => WebhookAuth::Bearer(BearerAuth {
            bearer_token_hint,
            extra: shown(extra),
        }),
        WithSecrets::Signature(SignatureAuthWithSecret {
            signature_algorithm,
            signature_secret_hint,
            signature_secret_plain: _,
            extra,
        }) => WebhookAuth::Signature(SignatureAuth {
            signature_algorithm,
            signature_secret_hint,
            extra: shown(extra),
        }),
        WithSecrets::BearerSignature(BearerSignatureAuthWithSecrets {
            signature_algorithm,
            signature_secret_hint,
            signature_secret_plain: _,
            bearer_token_hint,
            bearer_token_plain: _,
            extra,
        }) => WebhookAuth::BearerSignature(BearerSignatureAuth {
            signature_algorithm,
            signature_secret_hint,
            bearer_token_hint,
            extra: shown(extra),
        }),
        WithSecrets::Unknown(other) => {
            let read = || {
                let mut kept = BTreeMap::<String, RawJson>::new();
                members(other.json().raw(), &mut |name, value| {
                    if is_shown(name) {
                        kept.insert(name.to_owned(), value.to_json());
                    }
                    Ok(())
                })?;
                serde_json::from_str(&serde_json::to_string(&kept)?)
            };
            // This does not fail: the value was read as an object with a `type`, and only its
            // secret members were removed.
            read().unwrap_or_else(|_: serde_json::Error| WebhookAuth::None(NoneAuth::default()))
        }
    }
}

/// The members in `extra` that are not secret.
fn shown(extra: Extra) -> Extra {
    let mut kept = Extra::default();
    for (name, value) in extra.into_iter().filter(|(name, _)| is_shown(name)) {
        kept.insert(name, value);
    }
    kept
}

fn is_shown(member: &str) -> bool {
    !member.ends_with("_plain")
}
