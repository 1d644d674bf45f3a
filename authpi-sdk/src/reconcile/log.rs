//! Reads a window of AuthPI's log: all pages, filtered by the webhook's subscription, ordered by
//! time.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{Stopped, filter::Subscription, windows::Window};
use crate::{
    RawJson,
    client::{Client, Error, ListAsWritten, Pages},
    event::{Event, ParseError},
};

/// AuthPI's maximum page size.
pub(super) const MAX_PAGE: u32 = 100;

/// The events of a window.
#[derive(Default)]
pub(super) struct Entries {
    /// By time, then by id. An event that is on two pages is here once.
    pub(super) events: BTreeMap<(Timestamp, Arc<str>), Event>,
    /// The number of entries that AuthPI could not return.
    pub(super) not_shown: u64,
}

pub(super) enum Read {
    Whole(Entries),
    /// The window has more events than the limit. The newest event seen was at this time.
    TooMany {
        newest: i64,
    },
    /// An unreadable entry was not accepted.
    Stopped(Stopped),
}

/// The content of a page.
pub(super) struct Page {
    /// The number of events of the subscription that were not on an earlier page.
    pub(super) wanted: u64,
    /// Unreadable entries. They are processed page by page, so that any number of them fits into
    /// memory.
    pub(super) unreadable: Vec<(RawJson, ParseError)>,
}

/// A window that is being read.
pub(super) struct Reading<'a> {
    window: Window,
    wanted: &'a Subscription,
    pages: Pages<ListAsWritten>,
    held: Entries,
}

impl<'a> Reading<'a> {
    pub(super) fn begin(
        client: &Client,
        window: Window,
        wanted: &'a Subscription,
        page: u32,
    ) -> Self {
        // AuthPI does not document whether `after` and `before` are inclusive. The window includes
        // `from` and excludes `until`, so a request after `from` − 1 ms and before `until` covers
        // it in either case. Events outside of the window are dropped when they are read.
        let from = timestamp(window.from.saturating_sub(1));
        let until = window.until.map(timestamp);
        let call = client
            .events()
            .list_as_written()
            .narrowed(wanted.query_types(), from, until)
            .limit(page);
        Self {
            window,
            wanted,
            pages: call.pages(),
            held: Entries::default(),
        }
    }

    /// The next page; `None` when the window is complete.
    pub(super) async fn page(&mut self) -> Result<Option<Page>, Error> {
        let Some(next) = self.pages.next().await else {
            return Ok(None);
        };
        let next = next?;
        let before = self.held.events.len();
        let held = &mut self.held;
        held.not_shown = held.not_shown.saturating_add(next.invalid_count);
        let mut unreadable = Vec::new();
        for item in next.items {
            match Event::from_json(String::from(item.get())) {
                Ok(event)
                    if self.window.holds(event.time().as_millisecond())
                        && self.wanted.includes(&event) =>
                {
                    held.events.insert((event.time(), event.shared_id()), event);
                }
                Ok(_) => {}
                Err(error) => unreadable.push((item, error)),
            }
        }
        Ok(Some(Page {
            wanted: (held.events.len() - before) as u64,
            unreadable,
        }))
    }

    /// The newest event seen, if the window has to be split.
    pub(super) fn too_many(&self, limit: usize) -> Option<i64> {
        let newest = || {
            self.held
                .events
                .last_key_value()
                .map(|((time, _), _)| time.as_millisecond())
        };
        (self.held.events.len() > limit && self.window.splits)
            .then(|| newest().unwrap_or(self.window.from))
    }

    pub(super) fn whole(self) -> Entries {
        self.held
    }
}

/// The timestamp of `millis`; the first or last one that jiff supports if it is out of range.
fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
