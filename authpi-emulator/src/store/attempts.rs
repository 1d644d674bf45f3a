//! What was sent and answered in the attempts of the latest deliveries, for the inspector.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use http::HeaderMap;

use crate::outgoing::{Answered, Outgoing};

/// The number of deliveries whose attempts are kept.
pub(crate) const DELIVERIES: usize = 1_000;
/// The number of attempts that are kept of one delivery.
const OF_ONE: usize = 20;
/// The maximum size of everything that is kept, in bytes.
const BYTES: usize = 64 * 1024 * 1024;

/// An attempt: the request, and its result.
pub(crate) struct Attempt {
    /// Its number within the delivery, from 1.
    pub(crate) number: u32,
    /// When it started, in Unix milliseconds.
    pub(crate) at: i64,
    pub(crate) took: Duration,
    pub(crate) is_redelivery: bool,
    /// `None` if no request could be made.
    pub(crate) sent: Option<Outgoing>,
    pub(crate) answered: Option<Answered>,
    pub(crate) error: Option<String>,
}

impl Attempt {
    /// About how much memory it uses. Bodies are shared by attempts, and counted once for each.
    fn size(&self) -> usize {
        let headers = |headers: &HeaderMap| -> usize {
            let lines = headers.iter();
            lines
                .map(|(name, value)| name.as_str().len() + value.len() + 64)
                .sum()
        };
        let sent = self.sent.as_ref().map_or(0, |sent| {
            sent.url.len() + headers(&sent.headers) + sent.body.len()
        });
        let answered = self
            .answered
            .as_ref()
            .map_or(0, |answered| answered.body.len());
        size_of::<Self>() + sent + answered
    }
}

/// The attempts of the latest deliveries, within limits.
#[derive(Default)]
pub(crate) struct Attempts {
    by_delivery: HashMap<String, VecDeque<Attempt>>,
    /// The deliveries, by their first attempt.
    order: VecDeque<String>,
    bytes: usize,
}

impl Attempts {
    pub(crate) fn add(&mut self, delivery_id: &str, attempt: Attempt) {
        self.bytes += attempt.size();
        if let Some(attempts) = self.by_delivery.get_mut(delivery_id) {
            attempts.push_back(attempt);
            if attempts.len() > OF_ONE
                && let Some(oldest) = attempts.pop_front()
            {
                self.bytes -= oldest.size();
            }
        } else {
            self.order.push_back(delivery_id.to_owned());
            self.by_delivery
                .insert(delivery_id.to_owned(), VecDeque::from([attempt]));
        }
        while self.order.len() > DELIVERIES || self.bytes > BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            let attempts = self.by_delivery.remove(&oldest).unwrap_or_default();
            self.bytes -= attempts.iter().map(Attempt::size).sum::<usize>();
        }
    }

    /// The attempts of a delivery, oldest first.
    pub(crate) fn of(&self, delivery_id: &str) -> impl Iterator<Item = &Attempt> {
        self.by_delivery.get(delivery_id).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn attempt(number: u32, bytes: usize) -> Attempt {
        Attempt {
            number,
            at: 0,
            took: Duration::ZERO,
            is_redelivery: false,
            sent: Some(Outgoing {
                url: String::new(),
                headers: HeaderMap::new(),
                body: Bytes::from(vec![0; bytes]),
            }),
            answered: None,
            error: None,
        }
    }

    #[test]
    fn only_the_latest_deliveries_and_attempts_are_kept() {
        let mut attempts = Attempts::default();
        for number in 0..=DELIVERIES {
            attempts.add(&format!("whd_{number}"), attempt(1, 1));
        }
        assert_eq!(attempts.of("whd_0").count(), 0);
        assert_eq!(attempts.of("whd_1").count(), 1);
        for number in 2..=30 {
            attempts.add("whd_1", attempt(number, 1));
        }
        let numbers: Vec<_> = attempts.of("whd_1").map(|a| a.number).collect();
        assert_eq!(numbers, (11..=30).collect::<Vec<_>>());
    }

    #[test]
    fn large_bodies_are_kept_of_fewer_deliveries() {
        let mut attempts = Attempts::default();
        for number in 0..200 {
            attempts.add(&format!("whd_{number}"), attempt(1, 1024 * 1024));
        }
        assert!(attempts.bytes <= BYTES && attempts.bytes > BYTES - 2 * 1024 * 1024);
        assert_eq!(attempts.of("whd_0").count(), 0);
        assert_eq!(attempts.of("whd_199").count(), 1);
        attempts.add("large", attempt(1, 2 * BYTES));
        assert_eq!((attempts.order.len(), attempts.bytes), (0, 0));
    }
}
