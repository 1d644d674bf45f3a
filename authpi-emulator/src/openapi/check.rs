//! Schema violations as AuthPI's `fields`.

use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind as Kind},
};
use serde_json::Value;

use crate::error::Field;

/// All mistakes in `value`; empty if the schema allows it.
pub(super) fn mistakes(schema: &Validator, value: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    for error in schema.iter_errors(value) {
        explain(&error, &mut fields);
    }
    fields.dedup();
    fields
}

fn explain(error: &ValidationError<'_>, fields: &mut Vec<Field>) {
    let at = dotted(error.instance_path().as_str());
    match error.kind() {
        // A union: reports the errors of the variant whose tag (such as `type`) matches. If the tag
        // matches none, reports the possible tags. If no variant has a tag, reports a wrong type.
        Kind::OneOfNotValid { context } | Kind::AnyOf { context } => {
            match variant(context, error.instance_path().as_str()) {
                Variant::Named(errors) => {
                    for error in errors {
                        explain(error, fields);
                    }
                }
                Variant::Unknown { tag, known } => {
                    fields.push(Field::new(
                        join(&at, &tag),
                        "invalid_value",
                        format!("must be one of {}", known.join(", ")),
                    ));
                }
                Variant::NotTagged => {
                    fields.push(Field::new(
                        whole(at),
                        "invalid_type",
                        "is of none of the types allowed",
                    ));
                }
            }
        }
        Kind::Required { property } => {
            fields.push(Field::new(
                join(&at, property.as_str().unwrap_or_default()),
                "required",
                "is missing",
            ));
        }
        kind => fields.push(Field::new(whole(at), code(kind), text(error))),
    }
}

enum Variant<'a> {
    Named(&'a [ValidationError<'static>]),
    Unknown { tag: String, known: Vec<String> },
    NotTagged,
}

/// Finds the variant whose constant member, the tag, matches.
fn variant<'a>(context: &'a [Vec<ValidationError<'static>>], union: &str) -> Variant<'a> {
    let mut tag = None;
    let mut known = Vec::new();
    for errors in context {
        let wrong_tag = errors.iter().find_map(|error| match error.kind() {
            Kind::Constant { expected_value } => {
                Some((error.instance_path().as_str().to_owned(), expected_value))
            }
            _ => None,
        });
        match wrong_tag {
            Some((at, expected)) => {
                known.extend(expected.as_str().map(str::to_owned));
                tag = Some(at);
            }
            // The variant for null is not relevant to an object, nor the variant for an object to a
            // number.
            None if errors
                .iter()
                .any(|error| wrong_type(error) && error.instance_path().as_str() == union) => {}
            None => return Variant::Named(errors),
        }
    }
    match tag {
        Some(at) => Variant::Unknown {
            tag: at.rsplit('/').next().unwrap_or_default().to_owned(),
            known,
        },
        None => Variant::NotTagged,
    }
}

fn wrong_type(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), Kind::Type { .. })
}

fn code(kind: &Kind) -> &'static str {
    match kind {
        Kind::Type { .. } => "invalid_type",
        Kind::Enum { .. } | Kind::Constant { .. } => "invalid_value",
        Kind::Format { .. } | Kind::Pattern { .. } => "invalid_format",
        Kind::MinLength { .. } | Kind::MinItems { .. } | Kind::MinProperties { .. } => "too_short",
        Kind::MaxLength { .. } | Kind::MaxItems { .. } | Kind::MaxProperties { .. } => "too_long",
        Kind::Minimum { .. } | Kind::ExclusiveMinimum { .. } => "too_small",
        Kind::Maximum { .. } | Kind::ExclusiveMaximum { .. } => "too_large",
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => "unknown_member",
        _ => "invalid",
    }
}

/// The message without the value, which may be a secret.
fn text(error: &ValidationError<'_>) -> String {
    match error.kind() {
        Kind::Type {
            kind: TypeKind::Single(expected),
        } => format!("must be of type {expected}"),
        Kind::Enum { options } if options.as_array().is_some_and(|all| all.len() > 12) => {
            "is not one of the values that the description lists".to_owned()
        }
        _ => error.masked_with("the value").to_string(),
    }
}

/// `/events/0` as `events[0]`.
fn dotted(pointer: &str) -> String {
    let mut path = String::new();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if token.bytes().all(|byte| byte.is_ascii_digit()) && !path.is_empty() {
            path.push('[');
            path.push_str(&token);
            path.push(']');
        } else {
            path = join(&path, &token);
        }
    }
    path
}

fn join(path: &str, member: &str) -> String {
    if path.is_empty() {
        member.to_owned()
    } else {
        format!("{path}.{member}")
    }
}

fn whole(path: String) -> String {
    if path.is_empty() {
        "body".to_owned()
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mistake_in_a_union_is_reported_for_the_intended_variant() {
        let variant = |name: &str, required: &str| json!({"type": "object", "required": ["type", required], "properties": {"type": {"const": name}}});
        let schema = json!({"properties": {"auth": {"oneOf": [variant("bearer", "token"), variant("signature", "key")]}}});
        let schema = jsonschema::validator_for(&schema).unwrap();
        let reported = |body: Value| mistakes(&schema, &body);

        assert_eq!(
            reported(json!({"auth": {"type": "basic"}})),
            [Field::new(
                "auth.type",
                "invalid_value",
                "must be one of bearer, signature"
            )]
        );
        assert_eq!(
            reported(json!({"auth": {"type": "signature"}})),
            [Field::new("auth.key", "required", "is missing")]
        );
        assert_eq!(
            reported(json!({"auth": {"type": "bearer", "token": 1}})),
            []
        );
        assert_eq!(
            reported(json!({"auth": 1})),
            [Field::new(
                "auth",
                "invalid_type",
                "is of none of the types allowed"
            )]
        );
    }

    #[test]
    fn the_value_complained_of_is_never_repeated() {
        let schema = json!({"properties": {"a": {"type": "string", "pattern": "^x", "maxLength": 3}, "b": {"enum": ["x"]}}});
        let schema = jsonschema::validator_for(&schema).unwrap();
        for body in [
            json!({"a": "hunter2"}),
            json!({"b": "hunter2"}),
            json!({"a": {"hunter2": 1}}),
        ] {
            let reported = mistakes(&schema, &body);
            assert!(!reported.is_empty());
            assert!(!format!("{reported:?}").contains("hunter2"), "{reported:?}");
        }
    }
}
