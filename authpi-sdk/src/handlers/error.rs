use std::{error::Error, fmt, time::Duration};

/// The result of a handler.
pub type HandlerResult<T = ()> = Result<T, HandlerError>;

/// Why a handler failed, and whether a retry can help.
///
/// `?` turns any [`Error`], an `anyhow::Error`, a boxed error or a string into a retryable error.
/// (That is why this type is not an [`Error`] itself; its cause is [`cause`](Self::cause).)
/// [`Terminal::terminal`] marks an error that no retry can fix.
///
/// ```
/// fn find() -> anyhow::Result<u8> {
///     anyhow::bail!("no such user")
/// }
/// fn handle() -> authpi_sdk::HandlerResult {
///     let _found = find()?;
///     Ok(())
/// }
/// assert_eq!(handle().unwrap_err().to_string(), "no such user");
/// ```
///
/// The receiver or worker logs the whole chain of causes, and a dead letter keeps it. An error must
/// not contain anything that must not be logged.
pub struct HandlerError {
    cause: Box<dyn Error + Send + Sync>,
    terminal: bool,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// An error that a retry may fix.
    pub fn retryable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: cause.into(),
            terminal: false,
            retry_after: None,
        }
    }

    /// An error that no retry can fix.
    ///
    /// If the ledger [keeps dead letters](crate::ledger::Ledger::keeps_dead_letters), the event
    /// becomes a dead letter. If it does not (`Memory`, `Redis`), the event would be lost. So an
    /// inline receiver answers 503, and AuthPI retries the event, unless [`drop_terminal_failures`]
    /// is set.
    ///
    /// [`drop_terminal_failures`]: crate::receiver::ReceiverBuilder::drop_terminal_failures
    pub fn terminal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            terminal: true,
            ..Self::retryable(cause)
        }
    }

    /// Delays the next attempt by at least `pause`. Has no effect on a terminal error.
    ///
    /// An inline receiver also sends the pause to AuthPI as `Retry-After`, rounded up to whole
    /// seconds. If no pause is set, an inline receiver sends its own [`retry_after`], and a worker
    /// uses its [`backoff`](crate::worker::WorkerBuilder::backoff).
    ///
    /// [`retry_after`]: crate::receiver::ReceiverBuilder::retry_after
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self {
            retry_after: Some(pause),
            ..self
        }
    }

    /// Whether the error is a terminal one.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The requested pause, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The cause.
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.cause.as_ref()
    }

    /// Puts advice before the cause.
    pub(super) fn with_advice(self, advice: Option<String>) -> Self {
        match advice {
            Some(advice) => Self {
                cause: Box::new(Advised {
                    advice,
                    cause: self.cause,
                }),
                ..self
            },
            None => self,
        }
    }

    /// The whole chain of causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut line = self.cause.to_string();
        let mut cause = self.cause.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

/// A cause, and advice about it.
#[derive(Debug)]
struct Advised {
    advice: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)
    }
}

impl Error for Advised {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.cause.as_ref())
    }
}

/// For `?`: any [`Error`], an `anyhow::Error`, a boxed error or a string becomes a retryable error.
impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for HandlerError {
    fn from(cause: E) -> Self {
        Self::retryable(cause)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("terminal", &self.terminal)
            .field("retry_after", &self.retry_after)
            .field("cause", &self.cause)
            .finish()
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

/// Marks the error of a `Result` as terminal: no retry can fix it. [`HandlerError::terminal`]
/// describes what happens to the event.
///
/// Works on every error that `?` accepts in a handler: any [`Error`], `anyhow::Error`, a boxed
/// error, a string, and [`HandlerError`] itself.
///
/// ```
/// use authpi_sdk::{HandlerResult, handlers::Terminal as _};
///
/// fn age(text: &str) -> HandlerResult<u8> {
///     text.parse::<u8>().terminal()
/// }
/// assert!(age("old").unwrap_err().is_terminal());
///
/// fn load() -> anyhow::Result<u8> {
///     anyhow::bail!("the user is gone")
/// }
/// assert!(load().terminal().unwrap_err().is_terminal());
/// ```
pub trait Terminal<T>: Sized {
    /// Marks the error as terminal.
    ///
    /// # Errors
    /// The same error, marked.
    fn terminal(self) -> HandlerResult<T>;
}

impl<T, E: Into<HandlerError>> Terminal<T> for Result<T, E> {
    fn terminal(self) -> HandlerResult<T> {
        self.map_err(|error| HandlerError {
            terminal: true,
            ..error.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_retryable_through_the_question_mark_unless_marked() {
        fn parse(text: &str) -> HandlerResult<i32> {
            Ok(text.parse::<i32>()?)
        }
        assert!(!parse("x").unwrap_err().is_terminal());
        assert!(parse("x").terminal().unwrap_err().is_terminal());
        let odd: [anyhow::Result<()>; 2] = [
            Err(anyhow::anyhow!("inner").context("outer")),
            Err(anyhow::anyhow!("x")),
        ];
        let [first, second] = odd;
        let first = first.terminal().unwrap_err();
        assert!(
            first.is_terminal() && first.chain() == "outer: inner",
            "{}",
            first.chain()
        );
        assert!(!HandlerError::from(second.unwrap_err()).is_terminal());
        let boxed: Result<(), Box<dyn Error + Send + Sync>> = Err("text".into());
        assert!(
            boxed.terminal().unwrap_err().is_terminal() && Err::<(), _>("text").terminal().is_err()
        );
        let through = |error: anyhow::Error| -> HandlerResult { Err(error)? };
        let error = through(anyhow::anyhow!("inner").context("outer")).unwrap_err();
        assert!(!error.is_terminal() && error.chain() == "outer: inner");
        let later = HandlerError::retryable("busy").after(Duration::from_secs(9));
        assert_eq!(
            (later.retry_after(), later.to_string().as_str()),
            (Some(Duration::from_secs(9)), "busy")
        );
    }
}
