//! Caches the keys of emitted metrics per thread.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use metrics::Key;

/// The number of keys per thread: enough for a few endpoints and for labels of some event types.
const MAX_KEPT: usize = 256;

/// A label besides the endpoint, with its value.
pub(super) type Label = Option<(&'static str, &'static str)>;

struct Kept {
    name: &'static str,
    endpoint: Arc<str>,
    label: Label,
    event_type: Option<&'static str>,
    key: Rc<Key>,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// The key of a metric for an endpoint, at most one more label, and the label `type`, if it is on.
pub(super) fn kept(
    name: &'static str,
    endpoint: &Arc<str>,
    label: Label,
    event_type: Option<&'static str>,
) -> Rc<Key> {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        let known = kept.iter().find(|of| {
            of.name == name
                && of.label == label
                && of.event_type == event_type
                && of.endpoint == *endpoint
        });
        if let Some(known) = known {
            return Rc::clone(&known.key);
        }
        if kept.len() == MAX_KEPT {
            kept.clear();
        }
        let key = Rc::new(new(name, endpoint, label, event_type));
        kept.push(Kept {
            name,
            endpoint: Arc::clone(endpoint),
            label,
            event_type,
            key: Rc::clone(&key),
        });
        key
    });
    // A thread that is ending has no cache.
    kept.unwrap_or_else(|_| Rc::new(new(name, endpoint, label, event_type)))
}

fn new(
    name: &'static str,
    endpoint: &Arc<str>,
    label: Label,
    event_type: Option<&'static str>,
) -> Key {
    let mut labels = vec![metrics::Label::new("endpoint", Arc::clone(endpoint))];
    let event_type = event_type.map(|event_type| ("type", event_type));
    let more = label.into_iter().chain(event_type);
    labels.extend(more.map(|(label, word)| metrics::Label::new(label, word)));
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
                let labels = [None, word("handled"), word("failed")];
                for (label, of) in labels
                    .into_iter()
                    .flat_map(|label| [None, Some("user.created")].map(|of| (label, of)))
                {
                    let made = kept(name, endpoint, label, of);
                    assert_eq!(*made, new(name, endpoint, label, of));
                    assert!(!seen.contains(&made));
                    // Endpoints are compared by name, not by address.
                    assert!(Rc::ptr_eq(
                        &made,
                        &kept(name, &Arc::from(&**endpoint), label, of)
                    ));
                    seen.push(made);
                }
            }
        }
        for n in 0..1_000 {
            kept("deliveries", &format!("endpoint {n}").into(), None, None);
        }
        assert!(KEPT.with_borrow(|kept| kept.len() <= MAX_KEPT));
    }
}
