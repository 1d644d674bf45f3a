//! Access tokens from a source, renewed before they expire.
//!
//! If many calls need a new token, the source is asked once, and all of them get its answer, a
//! token or an error. A valid token stays in use while it is being renewed, and if the renewal
//! fails or takes long. A token that AuthPI refuses is dropped, unless it was already replaced.
//!
//! The source runs in a task of its own. So a call that gives up does not cancel an operation that
//! may only work once, such as the exchange of a refresh token.

use std::{
    error::Error as StdError,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::Instrument as _;

use super::{AccessToken, AnySource, Authorization, Error, bearer};
use crate::client::transport::error::Kind;

/// How long before its expiry a token is renewed. A token that is valid for less than five minutes
/// is renewed in the last fifth of that time.
const AHEAD: Duration = Duration::from_mins(1);

/// The pause after a failed renewal, while the token is still valid.
const PAUSE: Duration = Duration::from_secs(5);

/// How long the call that starts a renewal waits for the new token while the old one is still
/// valid. After that, it uses the old one.
const REFRESH_WAIT: Duration = Duration::from_secs(2);

/// The time limit of one request to a source.
pub(super) const SOURCE_TIMEOUT: Duration = Duration::from_secs(30);

/// A source's tokens.
pub(crate) struct Renewed(Arc<Inner>);

struct Inner {
    source: AnySource,
    state: Mutex<State>,
    /// Held while the source is asked.
    asking: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct State {
    held: Option<CachedToken>,
    /// The number of tokens so far.
    tokens: u64,
    /// The number of answers of the source so far.
    answers: u64,
    /// The source's last answer, if that was an error.
    failure: Option<Shared>,
}

struct CachedToken {
    authorization: Authorization,
    renew: Option<Instant>,
    ends: Option<Instant>,
}

impl CachedToken {
    fn is_good(&self, now: Instant) -> bool {
        self.ends.is_none_or(|ends| now < ends)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.renew.is_some_and(|renew| now >= renew)
    }
}

impl Renewed {
    pub(super) fn new(source: AnySource) -> Self {
        Self(Arc::new(Inner {
            source,
            state: Mutex::default(),
            asking: Arc::default(),
        }))
    }

    pub(super) async fn authorization(&self) -> Result<Authorization, Error> {
        let asking = || Arc::clone(&self.0.asking);
        let answers = self.0.state().answers;
        match self.0.good() {
            Some((good, false)) => Ok(good),
            Some((good, true)) => {
                let Ok(turn) = asking().try_lock_owned() else {
                    return Ok(good);
                };
                match timeout(REFRESH_WAIT, self.ask(turn)).await {
                    Ok(Ok(Ok(renewed))) => Ok(renewed),
                    Ok(Err(panicked)) => {
                        self.0.state().fail(failure(panicked));
                        Ok(good)
                    }
                    // The renewal takes long or failed: the valid token is used.
                    _ => Ok(good),
                }
            }
            None => {
                let turn = asking().lock_owned().await;
                if let Some((good, _)) = self.0.good() {
                    return Ok(good);
                }
                if let Some(failure) = self.0.answered_since(answers) {
                    return Err(no_token(failure));
                }
                self.ask(turn)
                    .await
                    .unwrap_or_else(|panicked| Err(no_token(failure(panicked))))
            }
        }
    }

    /// Drops a token that AuthPI has refused, unless it was already replaced, and gets another.
    /// Returns whether there is another.
    pub(super) async fn replace(&self, refused: &Authorization) -> Result<bool, Error> {
        {
            let mut state = self.0.state();
            if state
                .held
                .as_ref()
                .is_some_and(|held| held.authorization.number == refused.number)
            {
                state.held = None;
            }
        }
        // A source that returns the same token has not renewed it.
        Ok(self.authorization().await?.header != refused.header)
    }

    /// Asks the source in a task, which continues even if the caller gives up.
    fn ask(&self, turn: OwnedMutexGuard<()>) -> JoinHandle<Result<Authorization, Error>> {
        let inner = Arc::clone(&self.0);
        let asking = async move {
            let answer = inner.answer().await;
            drop(turn);
            answer
        };
        tokio::spawn(asking.in_current_span())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token to use, and whether it has to be renewed.
    fn good(&self) -> Option<(Authorization, bool)> {
        let now = Instant::now();
        let state = self.state();
        let held = state.held.as_ref().filter(|held| held.is_good(now))?;
        Some((held.authorization.clone(), held.is_due(now)))
    }

    /// The failure of the source's last answer, if the source has answered more than `answers`
    /// times.
    fn answered_since(&self, answers: u64) -> Option<Shared> {
        let state = self.state();
        state.failure.clone().filter(|_| state.answers > answers)
    }

    async fn answer(&self) -> Result<Authorization, Error> {
        let answer = match timeout(SOURCE_TIMEOUT, self.source.token()).await {
            Ok(answer) => answer.map_err(Shared::from),
            Err(_) => Err(failure(format!(
                "the token source did not answer within {SOURCE_TIMEOUT:?}"
            ))),
        };
        let answer = answer.and_then(|token| match bearer(&token.token) {
            Ok(header) => Ok((token, header)),
            Err(problem) => Err(failure(problem)),
        });
        let mut state = self.state();
        state.answers += 1;
        match answer {
            Ok((token, header)) => Ok(state.keep(&token, header)),
            Err(failure) => Err(state.fail(failure)),
        }
    }
}

fn failure(reported: impl Into<Box<dyn StdError + Send + Sync>>) -> Shared {
    reported.into().into()
}

impl State {
    fn keep(&mut self, token: &AccessToken, header: HeaderValue) -> Authorization {
        let now = Instant::now();
        self.tokens += 1;
        let authorization = Authorization {
            header,
            number: self.tokens,
        };
        let ahead = |ends: Instant| {
            let time = ends.saturating_duration_since(now);
            now + time.saturating_sub(AHEAD.min(time / 5))
        };
        self.held = Some(CachedToken {
            authorization: authorization.clone(),
            renew: token.ends.map(ahead),
            ends: token.ends,
        });
        self.failure = None;
        authorization
    }

    /// Records a failure. The current token is kept, and the source is not asked again before
    /// [`PAUSE`] has passed.
    fn fail(&mut self, failure: Shared) -> Error {
        if let Some(held) = &mut self.held {
            held.renew = Some(Instant::now() + PAUSE);
        }
        tracing::debug!(error = %failure, "could not get a new access token");
        self.failure = Some(failure.clone());
        no_token(failure)
    }
}

fn no_token(failure: Shared) -> Error {
    Error::new(
        Kind::Credential("could not get an access token".to_owned()),
        false,
    )
    .caused_by(failure)
}

/// A source's error, shared by all callers that waited for its token.
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

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::client::transport::credentials::source;

    /// Returns these answers one after the other, each after a second, and counts how often it was
    /// asked.
    #[derive(Clone, Default)]
    struct Script(Arc<(Mutex<VecDeque<Line>>, AtomicU32)>);

    impl Script {
        fn asked(&self) -> u32 {
            self.0.1.load(Ordering::SeqCst)
        }
    }

    /// An answer: a token by its name and the seconds that it is valid; `None` is a failure.
    type Line = Option<(&'static str, u64)>;

    fn tokens(lines: impl IntoIterator<Item = Line>) -> (Arc<Renewed>, Script) {
        let token = |(text, seconds): (&str, u64)| {
            let token = AccessToken::new(text);
            if seconds == 0 {
                token
            } else {
                token.expires_in(Duration::from_secs(seconds))
            }
        };
        let script = Script::default();
        script.0.0.lock().unwrap().extend(lines);
        let asked = script.clone();
        let source = source::any(move || {
            let asked = asked.clone();
            async move {
                asked.0.1.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(1)).await;
                let line = asked.0.0.lock().unwrap().pop_front();
                line.flatten()
                    .map(token)
                    .ok_or_else(|| "the issuer is down".into())
            }
        });
        (Arc::new(Renewed::new(source)), script)
    }

    fn text(authorization: &Authorization) -> &str {
        authorization
            .header
            .to_str()
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap()
    }

    async fn got(tokens: &Renewed) -> String {
        text(&tokens.authorization().await.unwrap()).to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_need_a_token_the_source_is_asked_once() {
        for (lines, asked_for) in [
            (vec![Some(("a", 0))], true),
            (vec![None, Some(("late", 0))], false),
        ] {
            let (tokens, script) = tokens(lines);
            let calls: Vec<_> = (0..50)
                .map(|_| {
                    let tokens = Arc::clone(&tokens);
                    tokio::spawn(async move { tokens.authorization().await.is_ok() })
                })
                .collect();
            for call in calls {
                assert_eq!(call.await.unwrap(), asked_for, "all get the same answer");
            }
            assert_eq!(script.asked(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_while_the_source_is_asked_breaks_nothing_off() {
        let (tokens, script) = tokens([Some(("a", 0))]);
        let hasty = tokio::time::timeout(Duration::from_millis(10), tokens.authorization());
        assert!(hasty.await.is_err());
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("a", 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_takes_longer_than_a_call_waits_is_there_for_the_next() {
        let slow = AtomicU32::new(0);
        let source = source::any(move || {
            let n = slow.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(REFRESH_WAIT * 2 * n).await;
                Ok(AccessToken::new(format!("t{n}")).expires_in(Duration::from_secs(100)))
            }
        });
        let tokens = Renewed::new(source);
        assert_eq!(got(&tokens).await, "t0");
        tokio::time::advance(Duration::from_secs(80)).await;
        assert_eq!(got(&tokens).await, "t0");
        tokio::time::sleep(REFRESH_WAIT * 2).await;
        assert_eq!(got(&tokens).await, "t1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_panics_is_an_error_and_is_asked_again() {
        let asked = AtomicU32::new(0);
        let source = source::any(move || {
            let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                assert!(!first, "a source's own mistake");
                Ok(AccessToken::new("a"))
            }
        });
        let tokens = Renewed::new(source);
        assert!(
            tokens
                .authorization()
                .await
                .err()
                .expect("no token")
                .is_credential()
        );
        assert_eq!(got(&tokens).await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_a_minute_before_its_end_or_in_its_last_fifth() {
        for (good_for, renewed_at) in [(3600, 3540), (100, 80)] {
            let (tokens, script) = tokens([Some(("a", good_for)), Some(("b", good_for))]);
            assert_eq!(got(&tokens).await, "a");
            tokio::time::advance(Duration::from_secs(renewed_at - 1)).await;
            assert_eq!(got(&tokens).await, "a");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!((got(&tokens).await.as_str(), script.asked()), ("b", 2));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_renews_a_token_the_others_go_on_with_it() {
        let (tokens, _) = tokens([Some(("a", 100)), Some(("b", 100))]);
        got(&tokens).await;
        tokio::time::advance(Duration::from_secs(90)).await;
        let other = Arc::clone(&tokens);
        let renewing = tokio::spawn(async move { got(&other).await });
        tokio::task::yield_now().await;
        let begin = Instant::now();
        assert_eq!(
            (got(&tokens).await.as_str(), begin.elapsed()),
            ("a", Duration::ZERO)
        );
        assert_eq!(renewing.await.unwrap(), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_keeps_a_token_that_is_still_good() {
        let (tokens, script) = tokens([Some(("a", 100)), None, None, Some(("b", 100))]);
        got(&tokens).await;
        tokio::time::advance(Duration::from_secs(85)).await;
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("a", 2));
        assert_eq!(
            (got(&tokens).await.as_str(), script.asked()),
            ("a", 2),
            "a source that is down is left in peace"
        );
        tokio::time::advance(PAUSE).await;
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("a", 3));
        tokio::time::advance(PAUSE).await;
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("b", 4));
    }

    /// Returns one token that is valid for 100 s, then never answers, and counts how often it was
    /// asked.
    fn then_silent() -> (Renewed, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let source = source::any(move || {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if !first {
                    std::future::pending::<()>().await;
                }
                Ok(AccessToken::new("a").expires_in(Duration::from_secs(100)))
            }
        });
        (Renewed::new(source), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_token_source_does_not_delay_calls_with_a_valid_token() {
        let (tokens, asked) = then_silent();
        got(&tokens).await;
        tokio::time::advance(Duration::from_secs(80)).await;
        let begin = Instant::now();
        assert_eq!(
            (got(&tokens).await.as_str(), begin.elapsed()),
            ("a", REFRESH_WAIT)
        );
        let begin = Instant::now();
        assert_eq!(
            (got(&tokens).await.as_str(), begin.elapsed()),
            ("a", Duration::ZERO)
        );
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        // By then the token has expired.
        tokio::time::sleep(SOURCE_TIMEOUT).await;
        let begin = Instant::now();
        let error = tokens.authorization().await.err().expect("no token");
        assert!(
            error.is_credential() && begin.elapsed() == SOURCE_TIMEOUT,
            "{error:?}"
        );
        assert!(
            StdError::source(&error)
                .unwrap()
                .to_string()
                .contains("did not answer within 30s")
        );
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_gives_up_while_the_source_hangs_spares_the_next_one() {
        let (tokens, asked) = then_silent();
        got(&tokens).await;
        tokio::time::advance(Duration::from_secs(80)).await;
        let hasty = tokio::time::timeout(Duration::from_millis(10), tokens.authorization());
        assert!(hasty.await.is_err());
        let begin = Instant::now();
        assert_eq!(
            (got(&tokens).await.as_str(), begin.elapsed()),
            ("a", Duration::ZERO)
        );
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_over_is_not_used_and_the_sources_error_is_the_cause() {
        let (tokens, _) = tokens([Some(("very_secret", 100)), None]);
        got(&tokens).await;
        tokio::time::advance(Duration::from_secs(100)).await;
        let error = tokens.authorization().await.err().expect("no token");
        assert!(error.is_credential() && !error.may_have_run(), "{error:?}");
        assert_eq!(
            StdError::source(&error).unwrap().to_string(),
            "the issuer is down"
        );
        assert!(!format!("{error:?}").contains("very_secret"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_dropped_once_however_many_were_refused_with_it() {
        let (tokens, script) = tokens([Some(("a", 0)), Some(("b", 0)), Some(("c", 0))]);
        let refused = tokens.authorization().await.unwrap();
        let calls: Vec<_> = (0..20)
            .map(|_| {
                let (tokens, refused) = (Arc::clone(&tokens), refused.clone());
                tokio::spawn(async move { tokens.replace(&refused).await.unwrap() })
            })
            .collect();
        for call in calls {
            assert!(call.await.unwrap(), "there is another token");
        }
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("b", 2));
        // A token that was refused long ago drops nothing.
        assert!(tokens.replace(&refused).await.unwrap());
        assert_eq!((got(&tokens).await.as_str(), script.asked()), ("b", 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_gives_the_refused_token_again_has_renewed_nothing() {
        let (tokens, _) = tokens([Some(("a", 0)), Some(("a", 0))]);
        let refused = tokens.authorization().await.unwrap();
        assert!(!tokens.replace(&refused).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_without_a_token_gets_a_specific_error() {
        for bad in ["", "key_1", "very_secret\n", "véry_secret"] {
            let (tokens, _) = tokens([Some((bad, 0))]);
            let error = tokens.authorization().await.err().expect("an error");
            let shown = format!("{error} {error:?}");
            assert!(
                shown.contains("access token") && !shown.contains("secret\n"),
                "{shown}"
            );
            assert!(error.is_credential());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_without_end_and_one_in_the_past_are_no_panic() {
        assert!(
            AccessToken::new("a")
                .expires_in(Duration::MAX)
                .ends
                .is_none()
        );
        assert!(
            AccessToken::new("a")
                .expires_at(jiff::Timestamp::MIN)
                .ends
                .is_some()
        );
        let _ = AccessToken::new("a").expires_at(jiff::Timestamp::MAX);
    }
}
