//! Named points at which a test may end the process. They do nothing without the feature `unstable`.

/// The points, in the order in which an event can pass them.
#[cfg(any(test, feature = "unstable"))]
pub const CRASH_POINTS: &[&str] = &[
    "verified",
    "appended",
    "leased",
    "claimed",
    "handled",
    "in_transaction",
    "given_up",
    "letter_kept",
    "unacknowledged",
    "committed",
    "completed",
    "answering",
];

#[cfg(any(test, feature = "unstable"))]
static HOOK: std::sync::OnceLock<fn(&'static str)> = std::sync::OnceLock::new();

/// Calls `hook` with the name of each point that an event passes, for the life of the process. Only
/// the first call has an effect. For tests that kill their process.
#[cfg(any(test, feature = "unstable"))]
pub fn on_crash_point(hook: fn(&'static str)) {
    let _ = HOOK.set(hook);
}

#[cfg(any(test, feature = "unstable"))]
pub(crate) fn point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in the list");
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}

#[cfg(not(any(test, feature = "unstable")))]
pub(crate) const fn point(_: &'static str) {}
