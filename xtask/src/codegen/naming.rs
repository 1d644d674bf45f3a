//! Converts names of the description to Rust names, and reports conflicts.

use std::collections::BTreeMap;

use heck::{ToPascalCase, ToShoutySnakeCase, ToSnakeCase};
use proc_macro2::Ident;
use quote::format_ident;

use super::document::{Place, Problem};

/// A type or variant name; `None` if `name` has no usable characters.
pub(crate) fn pascal(name: &str) -> Option<String> {
    let words = words(name).to_pascal_case();
    match words.chars().next() {
        None => None,
        Some(first) if first.is_ascii_digit() => Some(format!("N{words}")),
        // The only reserved word in Pascal case.
        Some(_) if words == "Self" => Some("Self_".to_owned()),
        Some(_) => Some(words),
    }
}

/// A field, parameter or method name; `None` if `name` has no usable characters.
pub(crate) fn snake(name: &str) -> Option<String> {
    let words = words(name).to_snake_case();
    match words.chars().next() {
        None => None,
        Some(first) if first.is_ascii_digit() => Some(format!("n{words}")),
        // Keywords that cannot be raw identifiers.
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

/// The crate that splits names into words knows only some ASCII separators, so all others are
/// replaced with one of them.
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

/// Names of one kind in one scope, each with its location.
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

    /// The same, with names reserved that generated code uses.
    pub(crate) fn without(self, reserved: &'static [&'static str]) -> Self {
        Self { reserved, ..self }
    }

    /// Reserves the Rust name that `mangle` makes of `name`; an error names both locations if it is
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

/// Names that generated modules import or define, besides the schemas' own.
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
