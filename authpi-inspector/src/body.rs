//! The bodies of responses: complete ones, and the event stream.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{sleep, timeout},
};

/// The pause after each signal.
const PAUSE: Duration = Duration::from_millis(100);
/// Without a change, a comment is sent after this time, so that a broken connection is noticed.
const IDLE: Duration = Duration::from_secs(15);

/// The body of a response.
pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    Stream(Pin<Box<Next>>),
    Ended,
}

/// The next part of a stream, and what follows it.
type Next = dyn Future<Output = Option<(Bytes, Signals)>> + Send;

impl Body {
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(
            Some(bytes.into()).filter(|bytes| !bytes.is_empty()),
        ))
    }

    pub(crate) fn stream(signals: Signals) -> Self {
        let first = async move { Some((Bytes::from_static(b"retry: 1000\n\n"), signals)) };
        Self(Kind::Stream(Box::pin(first)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut self.0 {
            Kind::Full(bytes) => bytes.take(),
            Kind::Stream(next) => match next.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    self.0 = Kind::Ended;
                    None
                }
                Poll::Ready(Some((bytes, signals))) => {
                    self.0 = Kind::Stream(Box::pin(signals.next()));
                    Some(bytes)
                }
            },
            Kind::Ended => None,
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Full(None) | Kind::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Stream(_) => SizeHint::default(),
            Kind::Ended => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for Body {
    /// Without the content, which may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// Signals that there is something new, until the page is closed.
pub(crate) struct Signals {
    changes: watch::Receiver<()>,
    closed: watch::Receiver<bool>,
    has_sent: bool,
    _permit: OwnedSemaphorePermit,
}

impl Signals {
    pub(crate) fn new(
        changes: watch::Receiver<()>,
        closed: watch::Receiver<bool>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            changes,
            closed,
            has_sent: false,
            _permit: permit,
        }
    }

    async fn next(mut self) -> Option<(Bytes, Self)> {
        let mut closed = self.closed.clone();
        let changed = async {
            if self.has_sent {
                sleep(PAUSE).await;
            }
            timeout(IDLE, self.changes.changed()).await
        };
        tokio::select! {
            // The stream ends when the inspector is closed, and also when it was dropped: then
            // `wait_for` returns an error.
            _ = closed.wait_for(|closed| *closed) => None,
            changed = changed => match changed {
                Ok(Ok(())) => {
                    self.has_sent = true;
                    Some((Bytes::from_static(b"event: change\ndata:\n\n"), self))
                }
                Ok(Err(_)) => None,
                Err(_) => Some((Bytes::from_static(b": idle\n\n"), self)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::BodyExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    async fn next(body: &mut Body) -> Option<String> {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        Some(String::from_utf8(frame.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_signals_changes_and_ends_when_closed() {
        let (changed, closed) = (watch::Sender::new(()), watch::Sender::new(false));
        let streams = Arc::new(Semaphore::new(1));
        let permit = streams.clone().try_acquire_owned().unwrap();
        let signals = Signals::new(changed.subscribe(), closed.subscribe(), permit);
        let mut body = Body::stream(signals);
        assert_eq!(next(&mut body).await.as_deref(), Some("retry: 1000\n\n"));
        for _ in 0..3 {
            changed.send_replace(());
            changed.send_replace(());
            let signal = next(&mut body).await.unwrap();
            assert!(signal.starts_with("event: change\n"), "{signal}");
        }
        assert_eq!(next(&mut body).await.as_deref(), Some(": idle\n\n"));
        closed.send_replace(true);
        assert_eq!(next(&mut body).await, None);
        assert_eq!(next(&mut body).await, None);
        assert_eq!(streams.available_permits(), 1, "the stream kept its permit");
    }
}
