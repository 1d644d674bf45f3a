//! Tokens that are renewed.
//!
//! However many calls need a new token, the source is asked once, and all of them get what it gives, be it a token or its error.
//! A token that is still good is used while it is being renewed and kept when that fails. One that AuthPI refuses is dropped,
//! unless somebody has replaced it already.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard},
    time::Instant,
};

use super::{super::error::Kind, AccessToken, AnySource, Authorization, Error, bearer};

/// How long before its end a token is renewed; less for one that is good for less than five times that.
const AHEAD: Duration = Duration::from_mins(1);

/// After a renewal that failed while the token was still good, how long until the next.
const PAUSE: Duration = Duration::from_secs(5);

/// A source's tokens.
pub(in crate::client) struct Renewed {
    source: AnySource,
    state: Mutex<State>,
    /// Held by the one who is asking the source.
    asking: AsyncMutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// How many tokens there have been.
    tokens: u64,
    /// How often the source has answered, in whatever way.
    answers: u64,
    /// What it answered the last time, if that was no token.
    failure: Option<Shared>,
}

struct Held {
    authorization: Authorization,
    renew: Option<Instant>,
    ends: Option<Instant>,
}

impl Held {
    fn is_good(&self, now: Instant) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.renew.is_some_and(|renew| now >= renew)
    }
}

impl Renewed {
    pub(super) fn new(source: AnySource) -> Self {
        Self { source, state: Mutex::default(), asking: AsyncMutex::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token to use, and whether it is time for another.
    fn good(&self) -> Option<(Authorization, bool)> {
        let now = Instant::now();
        let state = self.state();
        let held = state.held.as_ref().filter(|held| held.is_good(now))?;
        Some((held.authorization.clone(), held.is_due(now)))
    }

    pub(super) async fn authorization(&self) -> Result<Authorization, Error> {
        let answers = self.state().answers;
        match self.good() {
            Some((good, false)) => Ok(good),
            Some((good, true)) => match self.asking.try_lock() {
                Ok(turn) => Ok(self.ask(turn).await.unwrap_or(good)),
                Err(_) => Ok(good),
            },
            None => {
                let turn = self.asking.lock().await;
                if let Some((good, _)) = self.good() {
                    return Ok(good);
                }
                let answered = self.answered_since(answers);
                if let Some(failure) = answered { Err(no_token(failure)) } else { self.ask(turn).await }
            }
        }
    }

    /// The failure that came while this caller waited for its turn: its own, too.
    fn answered_since(&self, answers: u64) -> Option<Shared> {
        let state = self.state();
        state.failure.clone().filter(|_| state.answers > answers)
    }

    /// Drops the token that AuthPI has refused, unless it is gone already; whether there is another now.
    pub(super) async fn replace(&self, refused: &Authorization) -> Result<bool, Error> {
        {
            let mut state = self.state();
            if state.held.as_ref().is_some_and(|held| held.authorization.number == refused.number) {
                state.held = None;
            }
        }
        // A source that gives the same token again has not renewed it.
        Ok(self.authorization().await?.header != refused.header)
    }

    async fn ask(&self, turn: AsyncMutexGuard<'_, ()>) -> Result<Authorization, Error> {
        let answer = self.source.token().await.map_err(Shared::from);
        let answer = answer.and_then(|token| match bearer(&token.token) {
            Ok(header) => Ok((token, header)),
            Err(problem) => Err(Shared::from(Box::<dyn StdError + Send + Sync>::from(problem))),
        });
        let mut state = self.state();
        state.answers += 1;
        let told = match answer {
            Ok((token, header)) => Ok(state.keep(&token, header)),
            Err(failure) => Err(state.fail(failure)),
        };
        drop(state);
        drop(turn);
        told
    }
}

impl State {
    fn keep(&mut self, token: &AccessToken, header: HeaderValue) -> Authorization {
        let now = Instant::now();
        self.tokens += 1;
        let authorization = Authorization { header, number: self.tokens };
        let ahead = |ends: Instant| {
            let time = ends.saturating_duration_since(now);
            now + time.saturating_sub(AHEAD.min(time / 5))
        };
        self.held = Some(Held { authorization: authorization.clone(), renew: token.ends.map(ahead), ends: token.ends });
        self.failure = None;
        authorization
    }

    /// The token that there is stays, for as long as it is good.
    fn fail(&mut self, failure: Shared) -> Error {
        if let Some(held) = &mut self.held {
            held.renew = Some(Instant::now() + PAUSE);
        }
        self.failure = Some(failure.clone());
        no_token(failure)
    }
}

fn no_token(failure: Shared) -> Error {
    Error::new(Kind::Credential("no access token could be had".to_owned()), false).caused_by(failure)
}

/// A source's error, for all who waited for its token.
#[derive(Clone)]
struct Shared(Arc<dyn StdError + Send + Sync>);

impl From<Box<dyn StdError + Send + Sync>> for Shared {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self(error.into())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Shared {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
