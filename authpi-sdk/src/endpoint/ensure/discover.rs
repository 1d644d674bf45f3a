//! Finds our webhooks with the spec's name and URL, and the current one of them.

use std::collections::HashSet;

use super::ownership::Mark;
use crate::{
    RawJson,
    client::{
        Error, Webhook, WebhookSpec, WebhookStatus, Webhooks, WithETag, api::compare,
        transport::Response,
    },
    endpoint::secrets::StoredSecret,
    json::{self, FromRaw as _},
};

/// One of our webhooks.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    pub(super) got: WithETag<Webhook>,
    /// `None` if only the secret store shows that it is ours.
    pub(super) mark: Option<Mark>,
}

impl Ours {
    pub(super) fn id(&self) -> &str {
        &self.got.value.id
    }

    fn replaces(&self) -> Option<&str> {
        self.mark.as_ref()?.purpose.replaces.as_deref()
    }

    /// The sort key for age. The id decides between webhooks created in the same millisecond, so
    /// that all replicas agree.
    fn age(&self) -> (i64, &str) {
        (self.got.value.created_at.0, self.id())
    }
}

/// Our webhooks with one name and URL.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The current webhook: the oldest one that does not replace another.
    pub(super) head: Option<Ours>,
    /// The one that will replace it.
    pub(super) successor: Option<Ours>,
    /// Younger duplicates with our mark, which are superfluous.
    pub(super) twins: Vec<Ours>,
    /// Webhooks that are not ours.
    pub(super) others: Vec<WithETag<Webhook>>,
}

impl Standing {
    pub(super) async fn look(
        webhooks: &Webhooks,
        name: &str,
        url: &str,
        kept: &[StoredSecret],
    ) -> Result<Self, Error> {
        let mut found = Vec::new();
        let mut others = Vec::new();
        let mut pages = webhooks.list().limit(100).pages();
        let mut listed = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page?;
            if page
                .unreadable
                .iter()
                .any(|webhook| may_be_called(webhook, name))
            {
                let why = "a webhook in the list is unreadable, and may be the one with this name";
                return Err(Error::malformed(why, Response::default()).during("webhooks.list"));
            }
            listed.extend(page.items);
        }
        for item in listed {
            if item.name != name
                || !compare::url(&item.url, url)
                || item.status == WebhookStatus::Deleted
            {
                continue;
            }
            // The list contains neither ETag nor metadata.
            let Some(got) = there(webhooks, &item.id).await? else {
                continue;
            };
            let mark = Mark::of(&got.value);
            if mark.is_some() || kept.iter().any(|kept| kept.webhook_id == item.id) {
                found.push(Ours { got, mark });
            } else {
                others.push(got);
            }
        }
        Ok(Self {
            others,
            ..Self::arranged(found)
        })
    }

    fn arranged(mut found: Vec<Ours>) -> Self {
        found.sort_by(|a, b| a.age().cmp(&b.age()));
        let ids: HashSet<_> = found.iter().map(|ours| ours.id().to_owned()).collect();
        // A webhook whose predecessor no longer exists has replaced it.
        let (successors, mut roots): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|ours| ours.replaces().is_some_and(|id| ids.contains(id)));
        if roots.is_empty() {
            return Self::default();
        }
        let mut standing = Self {
            head: Some(roots.remove(0)),
            ..Self::default()
        };
        standing
            .twins
            .extend(roots.into_iter().filter(|root| root.mark.is_some()));
        for ours in successors {
            let of_head = ours.replaces() == standing.head.as_ref().map(Ours::id);
            match &mut standing.successor {
                // The oldest successor.
                successor @ None if of_head => *successor = Some(ours),
                Some(_) if of_head => standing.twins.push(ours),
                // The successor of a superfluous webhook: handled once that one is deleted.
                _ => {}
            }
        }
        standing
    }
}

/// Whether an unreadable webhook of the list has this name, or an unreadable name. One with another
/// name is ignored.
fn may_be_called(webhook: &RawJson, name: &str) -> bool {
    let [found] = json::pick(webhook.raw(), ["name"]).unwrap_or_default();
    found
        .and_then(|found| String::from_raw(found).ok())
        .is_none_or(|found| found == name)
}

/// The webhook, unless AuthPI says that it does not exist.
pub(super) async fn there(
    webhooks: &Webhooks,
    webhook_id: &str,
) -> Result<Option<WithETag<Webhook>>, Error> {
    match webhooks.get(webhook_id).await {
        Ok(got) => Ok(Some(got).filter(|got| got.value.status != Some(WebhookStatus::Deleted))),
        Err(error) if error.says_there_is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Webhooks {
    /// Finds the webhook with the spec's name and URL: the one that [`ensure`](Webhooks::ensure)
    /// maintains, whatever its current id, or else the oldest one with that name and URL. Returns
    /// `None` if there is none. Changes nothing. Only the name and URL of the spec matter.
    ///
    /// During a [rotation](Webhooks::rotate), it is the one that will be replaced.
    ///
    /// This takes one list call, and a `get` for each webhook with that name and URL.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn find(&self, spec: &WebhookSpec) -> Result<Option<WithETag<Webhook>>, Error> {
        let Standing { head, others, .. } =
            Standing::look(self, &spec.name, &spec.url, &[]).await?;
        let oldest = || {
            others
                .into_iter()
                .min_by_key(|got| (got.value.created_at, got.value.id.clone()))
        };
        Ok(head.map(|ours| ours.got).or_else(oldest))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours(id: &str, created_at: i64, replaces: Option<&str>) -> Ours {
        let webhook = json!({
            "id": id, "account_id": "acc_1", "name": "n", "url": "u", "auth": {"type": "signature"}, "events": [],
            "created_at": created_at, "metadata": {"authpi_sdk_key": "ab", "authpi_sdk_replaces": replaces},
        });
        let value: Webhook = serde_json::from_value(webhook).unwrap();
        let mark = Mark::of(&value);
        Ours {
            got: WithETag { value, etag: None },
            mark,
        }
    }

    fn reported(found: Vec<Ours>) -> (Option<String>, Option<String>, Vec<String>) {
        let standing = Standing::arranged(found);
        let id = |ours: &Ours| ours.id().to_owned();
        (
            standing.head.as_ref().map(id),
            standing.successor.as_ref().map(id),
            standing.twins.iter().map(id).collect(),
        )
    }

    #[test]
    fn the_oldest_counts_and_ids_settle_a_tie() {
        let found = vec![
            ours("wh_c", 5, None),
            ours("wh_b", 2, None),
            ours("wh_a", 2, None),
        ];
        assert_eq!(
            reported(found),
            (
                Some("wh_a".into()),
                None,
                vec!["wh_b".into(), "wh_c".into()]
            )
        );
        assert_eq!(reported(vec![]), (None, None, vec![]));
    }

    #[test]
    fn a_successor_is_no_twin_and_takes_the_place_of_what_is_gone() {
        let both = vec![
            ours("wh_a", 1, None),
            ours("wh_b", 2, Some("wh_a")),
            ours("wh_c", 3, Some("wh_a")),
        ];
        assert_eq!(
            reported(both.clone()),
            (
                Some("wh_a".into()),
                Some("wh_b".into()),
                vec!["wh_c".into()]
            )
        );
        assert_eq!(
            reported(both[1..].to_vec()),
            (Some("wh_b".into()), None, vec!["wh_c".into()])
        );
    }

    #[test]
    fn one_without_our_mark_is_never_too_many() {
        let mut by_hand = ours("wh_b", 2, None);
        by_hand.mark = None;
        assert_eq!(
            reported(vec![ours("wh_a", 1, None), by_hand]),
            (Some("wh_a".into()), None, vec![])
        );
    }

    #[test]
    fn webhooks_that_replace_each_other_are_nobodys_head() {
        let circle = vec![ours("wh_a", 1, Some("wh_b")), ours("wh_b", 2, Some("wh_a"))];
        assert_eq!(reported(circle), (None, None, vec![]));
    }
}
