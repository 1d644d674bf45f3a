use std::{
    fmt,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
};

use jiff::Timestamp;

use super::Secret;

/// The maximum number of secrets in a ring: each one costs a hash of every delivery.
pub const MAX_KEYS: usize = 4;

/// The secrets that a delivery may be signed with. Each has a name, so that the log can say which
/// one matched.
///
/// Clones share one ring, so [`replace`](KeyRing::replace) changes the secrets of a running
/// receiver. During a rotation, the ring holds the old and the new secret. With
/// [`with_during`](KeyRing::with_during), a secret becomes valid and expires at given times.
#[derive(Clone)]
pub struct KeyRing(Arc<RwLock<Arc<Keys>>>);

/// One state of a ring, replaced as a whole.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Clone)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) secret: Secret,
    window: (Bound<Timestamp>, Bound<Timestamp>),
    last_match: LastMatch,
}

/// When a delivery was last signed with a key, in Unix milliseconds. Shared by all rings that hold
/// the key.
#[derive(Clone)]
struct LastMatch(Arc<AtomicI64>);

const NEVER: i64 = i64::MIN;

impl Key {
    /// Records that an authentic delivery was signed with it.
    pub(super) fn matched(&self, at: Timestamp) {
        self.last_match
            .0
            .fetch_max(at.as_millisecond(), Ordering::Relaxed);
    }

    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.window.contains(&now)
    }
}

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }

    fn check(&self) -> Result<(), KeyRingError> {
        if self.0.len() > MAX_KEYS {
            return Err(KeyRingError::TooMany { held: self.0.len() });
        }
        for (at, key) in self.0.iter().enumerate() {
            if self.0[..at].iter().any(|other| other.name == key.name) {
                return Err(KeyRingError::NameTwice {
                    name: key.name.to_string(),
                });
            }
            if key.secret.expose().is_empty() {
                return Err(KeyRingError::EmptySecret {
                    name: key.name.to_string(),
                });
            }
        }
        Ok(())
    }
}

impl KeyRing {
    /// A ring without secrets. A receiver cannot be built with it.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Adds a secret that is always valid. Returns a separate ring: clones of this ring do not
    /// change (use [`replace`](Self::replace) for that).
    ///
    /// More than [`MAX_KEYS`] secrets, a duplicate name and an empty secret are errors, which
    /// [`check`](Self::check) reports. Building a receiver calls it.
    #[must_use]
    pub fn with(self, name: impl Into<Arc<str>>, secret: impl Into<Secret>) -> Self {
        self.with_during(name, secret, ..)
    }

    /// Adds a secret that is valid only at times within `window`: `start..` for not-before, `..end`
    /// for not-after.
    #[must_use]
    pub fn with_during(
        self,
        name: impl Into<Arc<str>>,
        secret: impl Into<Secret>,
        window: impl RangeBounds<Timestamp>,
    ) -> Self {
        let window = (window.start_bound().cloned(), window.end_bound().cloned());
        let mut keys = Keys::clone(&self.keys());
        let last_match = LastMatch(Arc::new(AtomicI64::new(NEVER)));
        keys.0.push(Key {
            name: name.into(),
            secret: secret.into(),
            window,
            last_match,
        });
        // A separate ring: adding to a clone must not change what a running receiver trusts.
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// Replaces the secrets with those of `next`, in every clone of this ring at once. A secret
    /// that is in both rings under the same name keeps its [`last_match`](Self::last_match).
    ///
    /// # Errors
    /// When `next` fails [`check`](Self::check) or is empty (use [`clear`](Self::clear) for that).
    /// Then the ring stays unchanged.
    pub fn replace(&self, next: &Self) -> Result<(), KeyRingError> {
        let keys = next.keys();
        if keys.0.is_empty() {
            return Err(KeyRingError::Empty);
        }
        keys.check()?;
        let mut keys = Keys::clone(&keys);
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for key in &mut keys.0 {
            if let Some(same) = held
                .iter()
                .find(|held| held.name == key.name && held.secret == key.secret)
            {
                key.last_match = same.last_match.clone();
            }
        }
        *held = Arc::new(keys);
        Ok(())
    }

    /// Removes every secret, in every clone of this ring at once. A receiver then answers each
    /// delivery with 500, until [`replace`](Self::replace) adds secrets. Use it when the last
    /// secret is revoked.
    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    /// When an authentic delivery was last signed with (or carried) the secret of this name; `None`
    /// if that has not happened or there is no such secret. During a rotation, this shows whether
    /// the new secret is in use, and whether the old one still is. The time is that of the
    /// verifier's clock, to the millisecond. Only deliveries to this process count.
    pub fn last_match(&self, name: &str) -> Option<Timestamp> {
        let keys = self.keys();
        let at = keys
            .iter()
            .find(|key| &*key.name == name)?
            .last_match
            .0
            .load(Ordering::Relaxed);
        (at != NEVER)
            .then(|| Timestamp::from_millisecond(at).ok())
            .flatten()
    }

    /// Checks the ring.
    ///
    /// # Errors
    /// More than [`MAX_KEYS`] secrets, a duplicate name, or an empty secret.
    pub fn check(&self) -> Result<(), KeyRingError> {
        self.keys().check()
    }

    /// Whether the ring has no secret.
    pub fn is_empty(&self) -> bool {
        self.keys().0.is_empty()
    }

    /// The names of its secrets, in the order in which they were added.
    pub fn names(&self) -> Vec<String> {
        self.keys().iter().map(|key| key.name.to_string()).collect()
    }

    pub(super) fn keys(&self) -> Arc<Keys> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Default for KeyRing {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyRing").field(&self.names()).finish()
    }
}

/// What is wrong with a [`KeyRing`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyRingError {
    /// It has no secret.
    Empty,
    /// It has more than [`MAX_KEYS`] secrets.
    TooMany {
        /// How many it has.
        held: usize,
    },
    /// Two secrets have the same name.
    NameTwice {
        /// The name.
        name: String,
    },
    /// A secret is the empty string.
    EmptySecret {
        /// Its name.
        name: String,
    },
    /// A secret does not have the [`KeyEncoding`](super::KeyEncoding) of the signature scheme (such
    /// as base64), so it cannot verify anything.
    NotOfForm {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for KeyRingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the key ring has no secret"),
            Self::TooMany { held } => write!(
                f,
                "the key ring has {held} secrets; the maximum is {MAX_KEYS}"
            ),
            Self::NameTwice { name } => write!(f, "the key ring has two secrets named {name:?}"),
            Self::EmptySecret { name } => write!(f, "the secret named {name:?} is empty"),
            Self::NotOfForm { name } => {
                write!(
                    f,
                    "the secret named {name:?} does not have the key encoding of the signature scheme"
                )
            }
        }
    }
}

impl std::error::Error for KeyRingError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_cannot_be_right_says_why() {
        let five = (0..5).fold(KeyRing::new(), |ring, n| ring.with(n.to_string(), "s"));
        assert_eq!(five.check(), Err(KeyRingError::TooMany { held: 5 }));
        let twice = KeyRing::new().with("a", "s").with("a", "t");
        assert_eq!(
            twice.check(),
            Err(KeyRingError::NameTwice { name: "a".into() })
        );
        assert_eq!(
            KeyRing::new().with("a", "").check(),
            Err(KeyRingError::EmptySecret { name: "a".into() })
        );
    }

    #[test]
    fn replacing_reaches_every_clone_and_refuses_what_is_wrong() {
        let ring = KeyRing::new().with("old", "s");
        let clone = ring.clone();
        ring.replace(&KeyRing::new().with("new", "t")).unwrap();
        assert_eq!(clone.names(), ["new"]);
        assert_eq!(ring.replace(&KeyRing::new()), Err(KeyRingError::Empty));
        assert_eq!(clone.names(), ["new"]);
    }

    #[test]
    fn a_kept_secret_keeps_its_last_match_and_a_replaced_one_does_not() {
        let at = Timestamp::from_second(7).unwrap();
        let ring = KeyRing::new().with("a", "s").with("b", "t");
        assert_eq!(ring.last_match("a"), None);
        for key in ring.keys().iter() {
            key.matched(at);
            key.matched(Timestamp::UNIX_EPOCH);
        }
        ring.replace(
            &KeyRing::new()
                .with("a", "s")
                .with("b", "another")
                .with("c", "u"),
        )
        .unwrap();
        assert_eq!(
            (
                ring.last_match("a"),
                ring.last_match("b"),
                ring.last_match("c")
            ),
            (Some(at), None, None)
        );
        assert_eq!(ring.last_match("d"), None);
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(
            format!("{:?}", KeyRing::new().with("2026-11", "whs_secret")),
            r#"KeyRing(["2026-11"])"#
        );
    }
}
