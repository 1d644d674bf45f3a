//! One page of a list.

use serde::Deserialize;

use crate::{
    RawJson,
    json::{self, FromRaw, Raw},
};

/// One page of a list. Its length says nothing about the total, which AuthPI does not report.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// AuthPI's cursor for the next page.
    pub next_cursor: Option<String>,
    /// Whether AuthPI says that another page follows. A short or empty page may be followed by
    /// others.
    pub has_more: bool,
    /// How many items of this page AuthPI could not return.
    pub invalid_count: u64,
    /// Items that this version cannot read, as raw JSON: a required member is missing or has an
    /// unexpected type. Their number is logged. The other items of the page are in `items`. (An
    /// optional member with an unexpected type is read as absent.)
    pub unreadable: Vec<RawJson>,
}

impl<T> Page<T> {
    /// The cursor of the next page, if there is one: the argument of
    /// [`Call::cursor`](crate::client::transport::Call::cursor).
    pub fn next_page(&self) -> Option<&str> {
        self.next_cursor
            .as_deref()
            .filter(|cursor| self.has_more && !cursor.is_empty())
    }
}

/// A page on the wire.
#[derive(Debug, Deserialize)]
pub struct PageWire<T> {
    data: Vec<T>,
    has_more: bool,
    next_cursor: Option<String>,
    invalid_count: Option<i64>,
    #[serde(skip)]
    unreadable: Vec<RawJson>,
}

impl<T: FromRaw> FromRaw for PageWire<T> {
    /// Reads each item separately.
    fn from_raw(raw: Raw<'_>) -> Result<Self, serde_json::Error> {
        let [data, has_more, next_cursor, invalid_count] =
            json::pick(raw, ["data", "has_more", "next_cursor", "invalid_count"])?;
        let (mut items, mut unreadable) = (Vec::new(), Vec::new());
        for item in Vec::<RawJson>::member("data", data)? {
            match T::from_raw(item.raw()) {
                Ok(item) => items.push(item),
                Err(_) => unreadable.push(item),
            }
        }
        Ok(Self {
            data: items,
            // If this member is missing or not a boolean, there may be more pages, so the list must
            // not end here.
            has_more: Option::member("has_more", has_more)?.unwrap_or(true),
            next_cursor: FromRaw::member("next_cursor", next_cursor)?,
            invalid_count: FromRaw::member("invalid_count", invalid_count)?,
            unreadable,
        })
    }
}

impl<T> From<PageWire<T>> for Page<T> {
    fn from(wire: PageWire<T>) -> Self {
        let PageWire {
            data,
            has_more,
            next_cursor,
            invalid_count,
            unreadable,
        } = wire;
        if !unreadable.is_empty() {
            tracing::warn!(
                count = unreadable.len(),
                "skipped unreadable items of a page; see `Page::unreadable`"
            );
        }
        let invalid_count = invalid_count
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0);
        Self {
            items: data,
            next_cursor,
            has_more,
            invalid_count,
            unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(has_more: bool, cursor: Option<&str>) -> Page<u8> {
        let next_cursor = cursor.map(Into::into);
        Page {
            items: Vec::new(),
            next_cursor,
            has_more,
            invalid_count: 0,
            unreadable: Vec::new(),
        }
    }

    #[test]
    fn a_short_or_empty_page_is_not_taken_for_the_last() {
        let page = |items: &[u8], more, cursor: Option<&str>| Page {
            items: items.to_vec(),
            ..empty(more, cursor)
        };
        assert_eq!(page(&[], true, Some("c")).next_page(), Some("c"));
        assert_eq!(page(&[1, 2, 3], false, Some("c")).next_page(), None);
        assert_eq!(page(&[1, 2, 3], true, None).next_page(), None);
        assert_eq!(page(&[1, 2, 3], true, Some("")).next_page(), None);
    }
}
