//! Reads a window of the log completely: every page, the events that the webhook subscribes to,
//! ordered by time.

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
    /// By time, then by id: the same event on two pages counts once.
    pub(super) events: BTreeMap<(Timestamp, Arc<str>), Event>,
    /// Entries that AuthPI could not show.
    pub(super) not_shown: u64,
}

pub(super) enum Read {
    Whole(Entries),
    /// More than the limit. The newest event seen was at this time.
    TooMany {
        newest: i64,
    },
    /// An unreadable entry was not accepted.
    Stopped(Stopped),
}

/// The content of a page.
pub(super) struct Page {
    /// Events of the subscription that were on no earlier page.
    pub(super) wanted: u64,
    /// Not kept with the window: they must not fill the memory, however many there are.
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
        // One millisecond more on each side: it is assumed, not known, that `after` and `before`
        // are exclusive. The request covers the window in either case, and events outside of it are
        // dropped here.
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

/// jiff's last timestamp for larger values.
fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
