//! Secrets that wait to be shown, each once.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::Secrets;

/// The maximum number of webhooks whose secrets wait; the oldest are dropped.
const WAITING: usize = 16;

#[derive(Default)]
pub(crate) struct ShownOnce(Mutex<VecDeque<(String, Secrets)>>);

impl ShownOnce {
    /// Keeps the secrets of a webhook, instead of its earlier ones.
    pub(crate) fn put(&self, webhook_id: &str, secrets: Secrets) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(id, _)| id != webhook_id);
        waiting.push_back((webhook_id.to_owned(), secrets));
        if waiting.len() > WAITING {
            waiting.pop_front();
        }
    }

    /// Removes the secrets of a webhook.
    pub(crate) fn take(&self, webhook_id: &str) -> Option<Secrets> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|(id, _)| id == webhook_id)?;
        waiting.remove(at).map(|(_, secrets)| secrets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_once_and_the_oldest_are_dropped() {
        let secrets = ShownOnce::default();
        for number in 0..=WAITING {
            secrets.put(&format!("wh_{number}"), Secrets::default());
        }
        assert!(secrets.take("wh_0").is_none(), "more than the limit wait");
        assert!(secrets.take("wh_1").is_some());
        assert!(secrets.take("wh_1").is_none(), "they were shown twice");
    }
}
