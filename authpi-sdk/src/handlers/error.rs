use std::{error::Error, fmt, time::Duration};

/// What a handler returns.
pub type Result<T = ()> = std::result::Result<T, HandlerError>;

/// Why a handler failed, and whether another try is worth it.
///
/// Any [`Error`] becomes a retryable one through `?`. (For that, this type is not an [`Error`]
/// itself; its cause is [`cause`](Self::cause).) What is no [`Error`] but can be made a box of one,
/// such as an `anyhow::Error`, a box of one or a text, goes through [`Terminal::retryable`] or
/// [`Terminal::terminal`] first.
///
/// ```
/// use authpi_sdk::handlers::Terminal as _;
///
/// fn find() -> anyhow::Result<u8> {
///     anyhow::bail!("no such user")
/// }
/// fn handle() -> authpi_sdk::Result {
///     let _found = find().retryable()?;
///     Ok(())
/// }
/// assert_eq!(handle().unwrap_err().to_string(), "no such user");
/// ```
///
/// The receiver logs the whole chain of causes, and a dead letter keeps it: do not put into an
/// error what may not be logged.
pub struct HandlerError {
    cause: Box<dyn Error + Send + Sync>,
    terminal: bool,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// An error that another try may cure.
    pub fn retryable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            cause: cause.into(),
            terminal: false,
            retry_after: None,
        }
    }

    /// An error that no further try will cure; the event becomes a dead letter.
    pub fn terminal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            terminal: true,
            ..Self::retryable(cause)
        }
    }

    /// Asks that the next try come no sooner than after `pause` (told to AuthPI as `Retry-After`,
    /// in whole seconds rounded up; unless given, the receiver's own). Without effect on a terminal
    /// error.
    #[must_use]
    pub fn after(self, pause: Duration) -> Self {
        Self {
            retry_after: Some(pause),
            ..self
        }
    }

    /// Whether no further try is wanted.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The pause that was asked for, if any.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What went wrong.
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        self.cause.as_ref()
    }

    /// Says first what can be done about it.
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

/// A cause, and what can be done about it.
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

impl<E: Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(cause: E) -> Self {
        Self::retryable(cause)
    }
}

impl From<HandlerError> for Box<dyn Error + Send + Sync> {
    /// The cause alone.
    fn from(error: HandlerError) -> Self {
        error.cause
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

/// Marks the error of a `Result` as one that no further try will cure.
///
/// For every error that can be made a box of one: any [`Error`], `anyhow::Error`, a box of an
/// error, a text.
///
/// ```
/// use authpi_sdk::handlers::Terminal as _;
///
/// fn age(text: &str) -> authpi_sdk::Result<u8> {
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
    /// See the trait.
    ///
    /// # Errors
    /// The same error, marked.
    fn terminal(self) -> Result<T>;

    /// The same error as one that another try may cure: for what `?` does not take, such as
    /// `anyhow::Error`.
    ///
    /// # Errors
    /// The same error.
    fn retryable(self) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Terminal<T> for std::result::Result<T, E> {
    fn terminal(self) -> Result<T> {
        self.map_err(HandlerError::terminal)
    }

    fn retryable(self) -> Result<T> {
        self.map_err(HandlerError::retryable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_retryable_through_the_question_mark_unless_marked() {
        fn parse(text: &str) -> Result<i32> {
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
        assert!(!second.retryable().unwrap_err().is_terminal());
        let boxed: std::result::Result<(), Box<dyn Error + Send + Sync>> = Err("text".into());
        assert!(
            boxed.terminal().unwrap_err().is_terminal() && Err::<(), _>("text").terminal().is_err()
        );
        let later = HandlerError::retryable("busy").after(Duration::from_secs(9));
        assert_eq!(
            (later.retry_after(), later.to_string().as_str()),
            (Some(Duration::from_secs(9)), "busy")
        );
    }
}
