//! One page of a list.

use crate::client::{Error, answer::Answer};

/// One page of a list. Its length says nothing of the total, which AuthPI does not tell.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page<T> {
    /// What is on this page.
    pub items: Vec<T>,
    /// The cursor of the next page, as AuthPI gave it.
    pub next_cursor: Option<String>,
    /// Whether AuthPI says that another page follows. A short or empty page does not mean that none does.
    pub has_more: bool,
    /// How many items of this page AuthPI could not show.
    pub invalid_count: u64,
}

impl<T> Page<T> {
    /// The cursor to go on with, if there is more: what [`Call::cursor`](crate::client::Call::cursor) takes.
    pub fn next_page(&self) -> Option<&str> {
        self.next_cursor.as_deref().filter(|cursor| self.has_more && !cursor.is_empty())
    }

    /// For whom nothing of the list may be missing. Whoever looks at a list is better served with what there is, as by AuthPI's own
    /// SDK.
    ///
    /// # Errors
    /// When the page says that another follows, and not where.
    pub(crate) fn check_end(&self) -> Result<(), Error> {
        if self.has_more && self.next_page().is_none() {
            return Err(Error::malformed("there is more of the list, and no cursor to it", Answer::default()));
        }
        Ok(())
    }

    pub(in crate::client) fn new(
        items: Vec<T>,
        has_more: bool,
        next_cursor: Option<String>,
        invalid_count: Option<i64>,
    ) -> Self {
        let invalid_count = invalid_count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Self { items, next_cursor, has_more, invalid_count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistake_18_a_short_or_empty_page_is_not_taken_for_the_last() {
        let page =
            |items: &[u8], more, cursor: Option<&str>| Page::new(items.to_vec(), more, cursor.map(Into::into), None);
        assert_eq!(page(&[], true, Some("c")).next_page(), Some("c"));
        assert_eq!(page(&[1, 2, 3], false, Some("c")).next_page(), None);
        assert_eq!(page(&[1, 2, 3], true, None).next_page(), None);
        assert_eq!(page(&[1, 2, 3], true, Some("")).next_page(), None);
    }

    #[test]
    fn a_page_that_hides_the_next_one_is_an_error_to_who_needs_them_all() {
        for (more, cursor, ok) in
            [(true, None, false), (true, Some(""), false), (true, Some("c"), true), (false, None, true)]
        {
            let page = Page::<u8>::new(Vec::new(), more, cursor.map(Into::into), None);
            assert_eq!(
                page.check_end().map_err(|error| error.is_malformed_response()),
                if ok { Ok(()) } else { Err(true) }
            );
        }
    }
}
