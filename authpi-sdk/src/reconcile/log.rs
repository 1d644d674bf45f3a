//! A window of the log, read whole: every page, what the webhook wants of it, in the order in which it happened.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{wanted::Wanted, windows::Window};
use crate::{
    RawJson,
    client::{Client, Error},
    event::{Event, ParseError},
};

/// Events to a page: the most that AuthPI gives.
const PAGE: u32 = 100;

/// What a window held.
#[derive(Default)]
pub(super) struct Held {
    /// By time, then by id: the same event on two pages is one.
    pub(super) events: BTreeMap<(Timestamp, Arc<str>), Event>,
    pub(super) unreadable: Vec<(RawJson, ParseError)>,
    /// What AuthPI could not show.
    pub(super) not_shown: u64,
}

pub(super) enum Read {
    Whole(Held),
    /// More than the limit; the newest event that was seen is from then.
    TooMany {
        newest: i64,
    },
}

/// Reads it, and calls `page` with what each page held.
pub(super) async fn read(
    client: &Client,
    window: Window,
    wanted: &Wanted,
    limit: usize,
    mut page: impl FnMut(u64),
) -> Result<Read, Error> {
    // One millisecond further at the begin: whether `after` leaves out the moment itself is assumed and not known, and so with
    // `before`. What is asked for holds the window in either case, and what is beyond is left out here.
    let from = timestamp(window.from.saturating_sub(1));
    let until = window.until.map(timestamp);
    let call = client.events().list_as_written().narrowed(wanted.types_to_ask_for(), from, until).limit(PAGE);
    let mut pages = call.pages();
    let mut held = Held::default();
    while let Some(next) = pages.next().await {
        let next = next?;
        let before = held.events.len();
        held.not_shown = held.not_shown.saturating_add(next.invalid_count);
        for item in next.items {
            match Event::from_json(String::from(item.get())) {
                Ok(event) if window.holds(event.time().as_millisecond()) && wanted.wants(&event) => {
                    held.events.insert((event.time(), event.shared_id()), event);
                }
                Ok(_) => {}
                Err(error) => held.unreadable.push((item, error)),
            }
        }
        page((held.events.len() - before) as u64);
        if held.events.len() > limit && window.splits {
            let newest = held.events.last_key_value().map_or(window.from, |((time, _), _)| time.as_millisecond());
            return Ok(Read::TooMany { newest });
        }
    }
    Ok(Read::Whole(held))
}

/// The calendar's end for what lies beyond it.
fn timestamp(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(if millis < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
