//! Lists: page after page, and item after item.

use std::{
    collections::HashSet,
    fmt,
    future::IntoFuture,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use futures_core::Stream;
use sha2::{Digest as _, Sha256};

use super::{Call, Error, Paged, Response, page::Page};

impl<O: Paged> Call<O> {
    /// All pages of the list, starting at the [`cursor`](Call::cursor) if one is set.
    ///
    /// A page is requested when the stream is polled for it. Each page is a separate call, and the
    /// call's timeout applies to each.
    pub fn pages(self) -> Pages<O> {
        Pages::new(self)
    }

    /// All items of the list, page after page. The call's [`limit`](Call::limit) is the size of a
    /// page, not the number of items.
    pub fn items(self) -> Items<O> {
        Items {
            pages: self.pages(),
            buffered: Vec::new().into_iter(),
            from: None,
            invalid_count: 0,
        }
    }
}

type InFlight<O> = Pin<Box<dyn Future<Output = Result<Page<<O as Paged>::Item>, Error>> + Send>>;

/// The pages of a list: see [`Call::pages`].
///
/// **The end.** The stream ends when AuthPI says that the list is complete, never because a page is
/// short or empty. It also ends with the first error, which is its last element. The pages before
/// the error are valid, and [`cursor`](Self::cursor) is that of the page that failed.
/// [`resume`](Self::resume) makes the stream request that page again. (The stream does not resume
/// on its own, so that a loop that ignores errors ends.)
///
/// A page with `has_more` but without a cursor, or with an empty one, is not the end either. After
/// that page, the stream returns an error ([`Error::is_malformed_response`]), and
/// [`resume`](Self::resume) makes it request the page again.
///
/// A list whose cursors repeat has no end. If a page contains a cursor that the stream has already
/// followed, the stream returns that page and then an error ([`Error::is_malformed_response`]).
///
/// ```no_run
/// # async fn example(authpi: authpi_sdk::Client) -> Result<(), authpi_sdk::client::Error> {
/// let mut pages = authpi.events().list().limit(100).pages();
/// while let Some(page) = pages.next().await {
///     println!("{} events", page?.items.len());
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct Pages<O: Paged> {
    call: Call<O>,
    cursor: Option<String>,
    in_flight: Option<InFlight<O>>,
    /// Digests of the cursors followed so far.
    followed: HashSet<[u8; 16]>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The page at the cursor is next.
    More,
    /// The page at the cursor is next, but the cursor has been followed before.
    Repeats,
    /// There is another page, but AuthPI returned no cursor for it.
    NoCursor,
    /// An error was returned.
    Failed,
    /// The list is complete.
    Finished,
}

impl<O: Paged> Pages<O> {
    fn new(mut call: Call<O>) -> Self {
        let cursor = call.operation.window().1.take();
        let followed = cursor.iter().map(|cursor| digest(cursor)).collect();
        Self {
            call,
            cursor,
            in_flight: None,
            followed,
            state: State::More,
        }
    }

    /// The next page; `None` at the end and after an error. This is the stream's `next`, for use
    /// without a stream library. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Page<O::Item>, Error>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The cursor of the next page, or of the page that failed: the argument of [`Call::cursor`],
    /// to continue later or elsewhere. `None` for the first page, and when the list [is
    /// finished](Self::is_finished).
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// Whether the last page was returned. An error does not finish the list.
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// After an error, continues with the page that failed. Otherwise, does nothing.
    pub fn resume(&mut self) {
        if self.state == State::Failed {
            self.state = State::More;
        }
    }

    fn failed<T>(&mut self, error: Error) -> Poll<Option<Result<T, Error>>> {
        self.state = State::Failed;
        Poll::Ready(Some(Err(error.during(O::OPERATION.id))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Page<O::Item>, Error>>> {
        match self.state {
            State::More => {}
            State::Finished | State::Failed => return Poll::Ready(None),
            State::Repeats => {
                return self.failed(Error::malformed(
                    "the list repeats an earlier page",
                    Response::default(),
                ));
            }
            State::NoCursor => return self.failed(no_cursor()),
        }
        let in_flight = self.in_flight.get_or_insert_with(|| {
            let mut call = self.call.clone();
            call.operation.window().1.clone_from(&self.cursor);
            call.into_future()
        });
        let page = ready!(in_flight.as_mut().poll(cx));
        self.in_flight = None;
        match &page {
            Ok(page) => {
                self.state = match page.next_page() {
                    // The cursor stays: this page may have the next one when it is requested again.
                    None if page.has_more => State::NoCursor,
                    None => State::Finished,
                    Some(cursor) if self.followed.insert(digest(cursor)) => State::More,
                    Some(_) => State::Repeats,
                };
                if self.state != State::NoCursor {
                    self.cursor = page.next_page().map(str::to_owned);
                }
            }
            Err(_) => self.state = State::Failed,
        }
        Poll::Ready(Some(page))
    }
}

fn no_cursor() -> Error {
    Error::malformed(
        "there are more pages (has_more), but next_cursor is missing",
        Response::default(),
    )
}

/// A digest of a cursor, to save memory: cursors may have any length, and a list may have any
/// number of them. Half of a SHA-256 hash does not collide by chance.
fn digest(cursor: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(cursor).into();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

impl<O: Paged> Stream for Pages<O> {
    type Item = Result<Page<O::Item>, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

/// Nothing in it is pinned: the future in flight is boxed.
impl<O: Paged> Unpin for Pages<O> {}

impl<O: Paged + fmt::Debug> fmt::Debug for Pages<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            call,
            cursor,
            state,
            ..
        } = self;
        f.debug_struct("Pages")
            .field("call", call)
            .field("cursor", cursor)
            .field("state", state)
            .finish_non_exhaustive()
    }
}

/// The items of a list: see [`Call::items`].
///
/// The stream ends, fails and resumes like [`Pages`]. All items of the pages before an error are
/// returned before the error.
///
/// ```no_run
/// # use authpi_sdk::client::DeliveryStatus;
/// # async fn example(authpi: authpi_sdk::Client) -> Result<(), authpi_sdk::client::Error> {
/// let mut failed = authpi.webhooks().deliveries("wh_1").status(DeliveryStatus::Failed).items();
/// while let Some(delivery) = failed.next().await {
///     let delivery = delivery?;
///     println!("{} {}: {:?}", delivery.id, delivery.event_type, delivery.last_error);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "streams do nothing unless polled"]
pub struct Items<O: Paged> {
    pages: Pages<O>,
    buffered: vec::IntoIter<O::Item>,
    /// The cursor of the page that the buffered items are from.
    from: Option<String>,
    invalid_count: u64,
}

impl<O: Paged> Items<O> {
    /// The next item; `None` at the end and after an error. This is the stream's `next`, for use
    /// without a stream library. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<O::Item, Error>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The cursor of the next item's page: the argument of [`Call::cursor`], to continue later or
    /// elsewhere. Items of that page may then be returned a second time; none is skipped. `None`
    /// for the first page, and when the list [is finished](Self::is_finished).
    pub fn cursor(&self) -> Option<&str> {
        if self.buffered.as_slice().is_empty() {
            self.pages.cursor()
        } else {
            self.from.as_deref()
        }
    }

    /// Whether the last item was returned. An error does not finish the list.
    pub fn is_finished(&self) -> bool {
        self.buffered.as_slice().is_empty() && self.pages.is_finished()
    }

    /// How many items of the pages so far were not returned: those that AuthPI could not return
    /// ([`Page::invalid_count`]), and those that this version could not read
    /// ([`Page::unreadable`]).
    pub fn invalid_count(&self) -> u64 {
        self.invalid_count
    }

    /// After an error, continues with the page that failed. Otherwise, does nothing.
    pub fn resume(&mut self) {
        self.pages.resume();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<O::Item, Error>>> {
        loop {
            if let Some(item) = self.buffered.next() {
                return Poll::Ready(Some(Ok(item)));
            }
            let from = self.pages.cursor.clone();
            match ready!(self.pages.poll(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(page)) => {
                    self.invalid_count = self
                        .invalid_count
                        .saturating_add(page.invalid_count + page.unreadable.len() as u64);
                    self.from = from;
                    self.buffered = page.items.into_iter();
                }
            }
        }
    }
}

impl<O: Paged> Stream for Items<O> {
    type Item = Result<O::Item, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl<O: Paged> Unpin for Items<O> {}

impl<O: Paged + fmt::Debug> fmt::Debug for Items<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items")
            .field("pages", &self.pages)
            .field("buffered", &self.buffered.as_slice().len())
            .finish_non_exhaustive()
    }
}
