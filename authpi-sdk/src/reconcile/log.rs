//! A window of the log, read whole: every page, what the webhook wants of it, in the order in which
//! it happened.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{Stopped, filter::Subscription, windows::Window};
use crate::{
    RawJson,
    client::{Client, Error, ListAsWritten, Pages},
    event::{Event, ParseError},
};

/// Events to a page: the most that AuthPI gives.
pub(super) const MAX_PAGE: u32 = 100;

/// What a window held.
#[derive(Default)]
pub(super) struct Entries {
    /// By time, then by id: the same event on two pages is one.
    pub(super) events: BTreeMap<(Timestamp, Arc<str>), Event>,
    /// What AuthPI could not show.
    pub(super) not_shown: u64,
}

pub(super) enum Read {
    Whole(Entries),
    /// More than the limit; the newest event that was seen is from then.
    TooMany {
        newest: i64,
    },
    /// An unreadable entry was not taken.
    Stopped(Stopped),
}

/// What a page brought.
pub(super) struct Page {
    /// Events that are wanted and stood on no page before.
    pub(super) wanted: u64,
    /// Not kept with what the window holds: however much of it there is, it must not fill the
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
        // One millisecond further at the begin: whether `after` leaves out the moment itself is
        // assumed and not known, and so with `before`. What is asked for holds the window in either
        // case, and what is beyond is left out here.
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

    /// The next page; none when the window is read whole.
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

/// The calendar's end for what lies beyond it.
fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
