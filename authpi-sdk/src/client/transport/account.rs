//! Looks up who the caller is, and on which account it acts.

use tokio::time::Instant;

use super::{
    Attempt, Built, Call, Client, Error, Operation, Reply, call::sealed::ToRequest, deadline,
    error::Kind, ids,
};
use crate::generated::api::{
    operations,
    types::{Me, MeResponse},
};

/// `GET /v1/me`: see [`Client::whoami`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WhoAmI {}

impl Operation for WhoAmI {
    type Output = Me;
}

impl ToRequest for WhoAmI {
    type Wire = MeResponse;
    const OPERATION: operations::Operation = operations::ME_GET;

    fn request(&self, attempt: &Attempt<'_>) -> Built<MeResponse> {
        attempt.api.me_get()
    }

    fn read(reply: Reply<MeResponse>) -> Me {
        reply.value.data
    }
}

impl Client {
    /// Returns the caller: the kind of credential, and the accounts and organizations it has access
    /// to.
    pub fn whoami(&self) -> Call<WhoAmI> {
        Call::new(self, WhoAmI {})
    }

    /// The account that calls act on: the configured one, otherwise the credential's only account.
    ///
    /// In the second case, the first call that needs the account looks it up. The answer is kept
    /// for this client and its clones.
    ///
    /// # Errors
    /// When the lookup fails, or the credential belongs to no account or to several
    /// ([`Error::is_configuration`]; the message lists them).
    pub async fn account_id(&self) -> Result<&str, Error> {
        self.account_by(|| self.whoami(), deadline(self.settings().timeout))
            .await
    }

    /// As [`account_id`](Self::account_id), with the lookup call that `ask` creates.
    pub(crate) async fn account_by(
        &self,
        ask: impl FnOnce() -> Call<WhoAmI>,
        deadline: Instant,
    ) -> Result<&str, Error> {
        let known = &self.settings().account;
        if let Some(account) = known.get() {
            return Ok(account);
        }
        let account = known.get_or_try_init(|| async {
            let left = deadline.saturating_duration_since(Instant::now());
            let me = ask().timeout(left).await?;
            only_account(&me)
        });
        // This caller's deadline may be earlier than that of the lookup in progress.
        match tokio::time::timeout_at(deadline, account).await {
            Ok(account) => account
                .map(|account| &**account)
                .map_err(Error::before_the_call),
            Err(_) => Err(Error::new(Kind::Timeout { connecting: false }, false)
                .during(operations::ME_GET.id)),
        }
    }
}

fn only_account(me: &Me) -> Result<Box<str>, Error> {
    match &*me.accounts {
        [] => Err(Error::configuration(
            "the credential has access to no account",
        )),
        [one] => {
            ids::check("account", &one.account_id)?;
            Ok((*one.account_id).into())
        }
        several => {
            let listed: Vec<_> = several
                .iter()
                .map(|account| account.account_id.escape_default().to_string())
                .collect();
            Err(Error::configuration(format!(
                "the credential can act on {} accounts; choose one: {}",
                several.len(),
                listed.join(", ")
            )))
        }
    }
}
