//! Idempotency keys: a repeated call gets the stored response.
//!
//! As AuthPI documents it: a key is valid for 24 hours within the account and belongs to one path
//! and body, and only 2xx responses are stored. The emulator has one account, so the key alone
//! identifies a call.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    answer::Answer,
    error::{ApiError, Field},
};

const KEPT_FOR_MILLIS: i64 = 24 * 60 * 60 * 1000;
/// A larger response is replayed without its body.
const MAX_KEPT_BODY: usize = 512 * 1024;
/// AuthPI documents no limit, but memory has one. Beyond it, the oldest key is dropped.
const MAX_KEYS: usize = 10_000;

/// The keys of the account.
#[derive(Default)]
pub(crate) struct Replays(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    calls: HashMap<String, Call>,
    /// Oldest first. A key that was released and used again is here twice; `began` tells which
    /// entry is current.
    order: VecDeque<(i64, String)>,
}

struct Call {
    /// SHA-256 of path and body.
    fingerprint: [u8; 32],
    began: i64,
    answer: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

/// What a key means for the call that uses it.
pub(crate) enum Claim<'a> {
    /// It is new: the call runs, and reports its response to the ticket.
    Run(Ticket<'a>),
    /// It is known: this is the response.
    Replay(Answer),
}

/// A call that runs with a key. If it is dropped without a response, the key is released.
pub(crate) struct Ticket<'a> {
    replays: &'a Replays,
    key: String,
}

impl Replays {
    /// 409 while the same call runs, 422 if the key belongs to another one.
    pub(crate) fn claim(
        &self,
        key: &str,
        path: &str,
        body: &[u8],
        now: i64,
    ) -> Result<Claim<'_>, ApiError> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.forget_before(now.saturating_sub(KEPT_FOR_MILLIS));
        // A path contains no line feed.
        let fingerprint = Sha256::new()
            .chain_update(path)
            .chain_update("\n")
            .chain_update(body)
            .finalize()
            .into();
        if let Some(call) = keys.calls.get(key) {
            if call.fingerprint != fingerprint {
                let message = "was used for another request";
                return Err(ApiError::invalid(vec![Field::new(
                    "Idempotency-Key",
                    "reused",
                    message,
                )]));
            }
            return match &call.answer {
                Some(kept) => Ok(Claim::Replay(Answer::replay(
                    kept.status,
                    &kept.headers,
                    kept.body.clone(),
                ))),
                None => Err(ApiError::conflict(
                    "a call with this idempotency key is under way",
                )),
            };
        }
        let call = Call {
            fingerprint,
            began: now,
            answer: None,
        };
        keys.calls.insert(key.to_owned(), call);
        keys.order.push_back((now, key.to_owned()));
        Ok(Claim::Run(Ticket {
            replays: self,
            key: key.to_owned(),
        }))
    }
}

/// A key with its response, as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedCall {
    key: String,
    /// SHA-256 of path and body, in base64.
    fingerprint: String,
    began: i64,
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Replays {
    /// The keys that have a response, oldest first.
    pub(crate) fn saved(&self, now: i64) -> Vec<SavedCall> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.forget_before(now.saturating_sub(KEPT_FOR_MILLIS));
        let call = |(began, key): &(i64, String)| {
            let call = keys.calls.get(key).filter(|call| call.began == *began)?;
            let kept = call.answer.as_ref()?;
            // The emulator's headers are ASCII and its bodies are JSON.
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let headers = kept.headers.iter();
            Some(SavedCall {
                key: key.clone(),
                fingerprint: STANDARD.encode(call.fingerprint),
                began: *began,
                status: kept.status.as_u16(),
                headers: headers
                    .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                    .collect(),
                body: text(&kept.body),
            })
        };
        keys.order.iter().filter_map(call).collect()
    }

    /// The keys of another run; `None` if one is unreadable.
    pub(crate) fn restored(saved: Vec<SavedCall>) -> Option<Self> {
        let mut keys = Keys::default();
        for call in saved {
            let mut headers = http::HeaderMap::new();
            for (name, value) in &call.headers {
                headers.append(
                    http::HeaderName::try_from(name).ok()?,
                    http::HeaderValue::try_from(value).ok()?,
                );
            }
            let kept = Kept {
                status: StatusCode::from_u16(call.status).ok()?,
                headers,
                body: call.body.into(),
            };
            let restored = Call {
                fingerprint: STANDARD.decode(call.fingerprint).ok()?.try_into().ok()?,
                began: call.began,
                answer: Some(kept),
            };
            keys.order.push_back((call.began, call.key.clone()));
            keys.calls.insert(call.key, restored);
        }
        Some(Self(Mutex::new(keys)))
    }
}

impl Keys {
    fn forget_before(&mut self, time: i64) {
        while let Some((began, key)) = self.order.front() {
            if *began > time && self.order.len() <= MAX_KEYS {
                break;
            }
            let current = self.calls.get(key).filter(|call| call.began == *began);
            // A call in progress keeps its key, whatever its age.
            if current.is_some_and(|call| call.answer.is_some()) {
                self.calls.remove(key);
            }
            self.order.pop_front();
        }
    }
}

impl Ticket<'_> {
    /// Stores a 2xx; any other response releases the key.
    pub(crate) fn answered(self, answer: &Answer) {
        if !answer.status().is_success() {
            return;
        }
        let body = if answer.bytes().len() > MAX_KEPT_BODY {
            Bytes::new()
        } else {
            answer.bytes().clone()
        };
        let kept = Kept {
            status: answer.status(),
            headers: answer.headers().clone(),
            body,
        };
        let mut keys = self
            .replays
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = keys.calls.get_mut(&self.key) {
            call.answer = Some(kept);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut keys = self
            .replays
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if keys
            .calls
            .get(&self.key)
            .is_some_and(|call| call.answer.is_none())
        {
            keys.calls.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run<'a>(replays: &'a Replays, key: &str, body: &'static str, now: i64) -> Ticket<'a> {
        match replays.claim(key, "/webhooks", body.as_bytes(), now) {
            Ok(Claim::Run(ticket)) => ticket,
            Ok(Claim::Replay(_)) => panic!("the call was replayed"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    fn replay(replays: &Replays, key: &str, now: i64) -> Answer {
        match replays.claim(key, "/webhooks", b"{}", now) {
            Ok(Claim::Replay(answer)) => answer,
            Ok(Claim::Run(_)) => panic!("the call would run again"),
            Err(problem) => panic!("{problem:?}"),
        }
    }

    fn created() -> Answer {
        Answer::json(StatusCode::CREATED, json!({"data": {"id": "wh_1"}}))
    }

    #[test]
    fn an_answer_is_replayed_for_24_hours_and_then_forgotten() {
        let replays = Replays::default();
        run(&replays, "k", "{}", 0).answered(&created());
        let again = replay(&replays, "k", KEPT_FOR_MILLIS - 1);
        assert_eq!(
            (again.status(), again.bytes()),
            (StatusCode::CREATED, created().bytes())
        );
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        run(&replays, "k", "{}", KEPT_FOR_MILLIS).answered(&created());
    }

    #[test]
    fn a_failed_or_aborted_call_frees_its_key() {
        let replays = Replays::default();
        run(&replays, "k", "{}", 0).answered(&ApiError::not_found("webhook").into());
        drop(run(&replays, "k", "{}", 0));
        drop(run(&replays, "k", "{}", 0));
    }

    #[test]
    fn a_key_is_refused_for_another_body_and_while_it_is_under_way() {
        let replays = Replays::default();
        let ticket = run(&replays, "k", "{}", 0);
        let status = |body: &'static str| match replays.claim("k", "/webhooks", body.as_bytes(), 1)
        {
            Err(problem) => Answer::from(problem).status().as_u16(),
            Ok(_) => panic!("the call was let through"),
        };
        assert_eq!((status("{}"), status("[]")), (409, 422));
        ticket.answered(&created());
        assert_eq!(status("[]"), 422);
    }

    #[test]
    fn saved_answers_are_replayed_and_keep_their_age() {
        let replays = Replays::default();
        run(&replays, "k", "{}", 5).answered(&created().with_etag("\"7\""));
        let _running = run(&replays, "running", "{}", 5);
        let saved = serde_json::to_string(&replays.saved(6)).unwrap();
        let replays = Replays::restored(serde_json::from_str(&saved).unwrap()).unwrap();
        let again = replay(&replays, "k", KEPT_FOR_MILLIS + 4);
        assert_eq!(
            (again.status(), again.bytes()),
            (StatusCode::CREATED, created().bytes())
        );
        assert_eq!(again.headers()["etag"], "\"7\"");
        assert!(replays.claim("k", "/webhooks", b"[]", 6).is_err());
        run(&replays, "running", "{}", 6).answered(&created());
        run(&replays, "k", "{}", KEPT_FOR_MILLIS + 5).answered(&created());
    }

    #[test]
    fn a_long_answer_is_replayed_without_its_body() {
        let replays = Replays::default();
        let long = Answer::json(
            StatusCode::CREATED,
            json!({"data": "x".repeat(MAX_KEPT_BODY)}),
        );
        run(&replays, "k", "{}", 0).answered(&long);
        let again = replay(&replays, "k", 1);
        assert_eq!(
            (again.status(), again.bytes().len()),
            (StatusCode::CREATED, 0)
        );
    }

    #[test]
    fn the_oldest_keys_are_forgotten_first() {
        let replays = Replays::default();
        for n in 0..=MAX_KEYS {
            run(&replays, &n.to_string(), "{}", 0).answered(&created());
        }
        replay(&replays, &MAX_KEYS.to_string(), 1);
        drop(run(&replays, "0", "{}", 1));
        assert!(replays.0.lock().unwrap().order.len() <= MAX_KEYS + 1);
    }
}
