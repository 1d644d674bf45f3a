//! The W3C trace of the event that is being handled. The calls of its handler continue it.

use std::{fmt, future::Future, num::NonZeroU128};

use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    /// The trace of the event or call that this task works on.
    static CURRENT: Option<TraceId>;
}

/// The id of a W3C trace: 32 hexadecimal digits that are not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceId(NonZeroU128);

impl TraceId {
    /// Reads a trace id, or the one in a `traceparent`. Any other text is no W3C trace.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = match text.split_once('-') {
            None => text,
            Some((version, rest)) if version.len() == 2 => rest.split_once('-')?.0,
            Some(_) => return None,
        };
        if id.len() != 32 || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        Self::new(u128::from_str_radix(id, 16).ok()?)
    }

    pub(crate) fn new(id: u128) -> Option<Self> {
        NonZeroU128::new(id).map(Self)
    }

    /// The trace of the event whose handler runs in this task.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.try_with(|trace| *trace).ok().flatten()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Runs the future with this trace as the current one.
pub(crate) fn within<F: Future>(
    trace: Option<TraceId>,
    work: F,
) -> TaskLocalFuture<Option<TraceId>, F> {
    CURRENT.scope(trace, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_w3c_traces_are_read() {
        const ID: &str = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{ID}-b7ad6b7169203331-01");
        for text in [ID, &ID.to_uppercase(), &parent] {
            assert_eq!(TraceId::parse(text).unwrap().to_string(), ID);
        }
        let zero = "0".repeat(32);
        let signed = format!("+{}", &ID[1..]);
        for text in [
            "",
            "tr_01kdw3w5r6q8t0v2",
            &ID[1..],
            &zero,
            &signed,
            "00-",
            &parent[..20],
        ] {
            assert_eq!(TraceId::parse(text), None, "{text}");
        }
    }
}
