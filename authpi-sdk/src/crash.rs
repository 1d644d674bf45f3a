//! Named points in the way of an event, at which a test may end the process. Nothing, in builds
//! without the feature `testing`.

/// The points, in the order in which one event can pass them.
#[cfg(any(test, feature = "testing"))]
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

#[cfg(any(test, feature = "testing"))]
static HOOK: std::sync::OnceLock<fn(&'static str)> = std::sync::OnceLock::new();

/// Has `hook` called with the name of each point that an event passes, once for the life of the
/// process; a further call changes nothing. For tests that kill their process there.
#[cfg(any(test, feature = "testing"))]
pub fn on_crash_point(hook: fn(&'static str)) {
    let _ = HOOK.set(hook);
}

#[cfg(any(test, feature = "testing"))]
pub(crate) fn point(name: &'static str) {
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in the list");
    if let Some(hook) = HOOK.get() {
        hook(name);
    }
}

#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn point(_: &'static str) {}
