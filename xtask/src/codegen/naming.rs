//! Names of the description as Rust names, and what happens when two of them become one.

use std::collections::BTreeMap;

use heck::{ToPascalCase, ToShoutySnakeCase, ToSnakeCase};
use proc_macro2::Ident;
use quote::format_ident;

use super::document::{Place, Problem};

/// A type's or a variant's name; `None` when nothing of `name` can stand in one.
pub(crate) fn pascal(name: &str) -> Option<String> {
    let words = words(name).to_pascal_case();
    match words.chars().next() {
        None => None,
        Some(first) if first.is_ascii_digit() => Some(format!("N{words}")),
        // The one word in Pascal case that Rust keeps for itself.
        Some(_) if words == "Self" => Some("Self_".to_owned()),
        Some(_) => Some(words),
    }
}

/// A field's, a parameter's or a method's name; `None` when nothing of `name` can stand in one.
pub(crate) fn snake(name: &str) -> Option<String> {
    let words = words(name).to_snake_case();
    match words.chars().next() {
        None => None,
        Some(first) if first.is_ascii_digit() => Some(format!("n{words}")),
        // The keywords that cannot be written raw.
        Some(_) if ["self", "super", "crate"].contains(&words.as_str()) => {
            Some(format!("{words}_"))
        }
        Some(_) => Some(words),
    }
}

/// A constant's name.
pub(crate) fn shouty(name: &str) -> Option<String> {
    let words = words(name).to_shouty_snake_case();
    words
        .chars()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        .then_some(words)
}

/// As the crate that cuts names into words sees only ASCII separators it knows, everything else is
/// made one of them.
fn words(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// `name` as an identifier, raw when it is a keyword.
pub(crate) fn ident(name: &str) -> Ident {
    if syn::parse_str::<Ident>(name).is_ok() {
        format_ident!("{name}")
    } else {
        format_ident!("r#{name}")
    }
}

/// Names of one kind in one scope, each with the place it came from.
pub(crate) struct Scope {
    kind: &'static str,
    taken: BTreeMap<String, (String, Place)>,
    reserved: &'static [&'static str],
}

impl Scope {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            taken: BTreeMap::new(),
            reserved: &[],
        }
    }

    /// The same without the Rust names that generated code uses itself.
    pub(crate) fn without(self, reserved: &'static [&'static str]) -> Self {
        Self { reserved, ..self }
    }

    /// Takes the Rust name that `mangle` makes of `name`; an error names both places when it is
    /// taken.
    pub(crate) fn take(
        &mut self,
        name: &str,
        place: &Place,
        mangle: fn(&str) -> Option<String>,
    ) -> Result<String, Problem> {
        let rust = mangle(name).ok_or_else(|| {
            place.problem(format!(
                "the {} {name:?} has no letter or digit to name it by",
                self.kind
            ))
        })?;
        if self.reserved.contains(&rust.as_str()) {
            return Err(place.problem(format!(
                "the {} {name:?} would be called `{rust}` in Rust, which generated code needs for itself",
                self.kind
            )));
        }
        if let Some((other, at)) = self.taken.get(&rust) {
            return Err(place.problem(format!(
                "the {kind} {name:?} and the {kind} {other:?} ({at}) would both be called `{rust}` in Rust",
                kind = self.kind
            )));
        }
        self.taken
            .insert(rust.clone(), (name.to_owned(), place.clone()));
        Ok(rust)
    }
}

/// What generated modules import or define, beside the schemas' own names.
pub(crate) const OF_MODULES: &[&str] = &[
    "Box",
    "Clone",
    "Debug",
    "Default",
    "Deserialize",
    "Deserializer",
    "EventType",
    "Extra",
    "Fit",
    "From",
    "None",
    "Ok",
    "Option",
    "PartialEq",
    "Patch",
    "Payload",
    "RawJson",
    "RawValue",
    "Result",
    "Serialize",
    "Serializer",
    "Some",
    "String",
    "Vec",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_authpi_become_names_of_rust() {
        for (name, rust) in [
            ("user.created", "UserCreated"),
            ("session.token-refreshed", "SessionTokenRefreshed"),
            (
                "organization.sso.domain-created",
                "OrganizationSsoDomainCreated",
            ),
            ("bearer+signature", "BearerSignature"),
            ("hmac-sha256", "HmacSha256"),
            ("2fa", "N2fa"),
            ("self", "Self_"),
        ] {
            assert_eq!(pascal(name).as_deref(), Some(rust));
        }
        assert_eq!(pascal("+"), None);
        assert_eq!(
            snake("webhooks.listDeliveries").as_deref(),
            Some("webhooks_list_deliveries")
        );
        assert_eq!(snake("Idempotency-Key").as_deref(), Some("idempotency_key"));
        assert_eq!(snake("crate").as_deref(), Some("crate_"));
        assert_eq!(ident("type").to_string(), "r#type");
    }
}
