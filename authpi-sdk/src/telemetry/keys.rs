//! Caches the keys of emitted metrics per thread.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use metrics::Key;

/// The number of keys per thread: more than a service with a few endpoints needs.
const MAX_KEPT: usize = 64;

/// A label besides the endpoint, with its value.
pub(super) type Label = Option<(&'static str, &'static str)>;

struct Kept {
    name: &'static str,
    endpoint: Arc<str>,
    label: Label,
    key: Rc<Key>,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// The key of a metric for an endpoint and at most one more label.
pub(super) fn kept(name: &'static str, endpoint: &Arc<str>, label: Label) -> Rc<Key> {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        let known = kept
            .iter()
            .find(|of| of.name == name && of.label == label && of.endpoint == *endpoint);
        if let Some(known) = known {
            return Rc::clone(&known.key);
        }
        if kept.len() == MAX_KEPT {
            kept.clear();
        }
        let key = Rc::new(new(name, endpoint, label));
        kept.push(Kept {
            name,
            endpoint: Arc::clone(endpoint),
            label,
            key: Rc::clone(&key),
        });
        key
    });
    // A thread that is ending has no cache.
    kept.unwrap_or_else(|_| Rc::new(new(name, endpoint, label)))
}

fn new(name: &'static str, endpoint: &Arc<str>, label: Label) -> Key {
    let mut labels = vec![metrics::Label::new("endpoint", Arc::clone(endpoint))];
    labels.extend(label.map(|(label, word)| metrics::Label::new(label, word)));
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_for_each_name_endpoint_and_word_and_are_never_too_many() {
        let (users, groups): (Arc<str>, Arc<str>) = ("users".into(), "groups".into());
        let word = |word| Some(("outcome", word));
        let mut seen: Vec<Rc<Key>> = Vec::new();
        for name in ["deliveries", "events"] {
            for endpoint in [&users, &groups] {
                for label in [None, word("handled"), word("failed")] {
                    let made = kept(name, endpoint, label);
                    assert_eq!(*made, new(name, endpoint, label));
                    assert!(!seen.contains(&made));
                    // Endpoints are compared by name, not by address.
                    assert!(Rc::ptr_eq(
                        &made,
                        &kept(name, &Arc::from(&**endpoint), label)
                    ));
                    seen.push(made);
                }
            }
        }
        for n in 0..1_000 {
            kept("deliveries", &format!("endpoint {n}").into(), None);
        }
        assert!(KEPT.with_borrow(|kept| kept.len() <= MAX_KEPT));
    }
}
