//! Query and header parameters: text, converted to the schema's type.

use jsonschema::Validator;
use serde_json::Value;

use super::{Parameters, check};
use crate::error::{ApiError, Field};

/// A parameter of the description.
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) required: bool,
    /// Comma-separated values, or the parameter repeated.
    pub(super) list: bool,
    /// The other types that a text can be converted to.
    pub(super) reads: Reads,
    pub(super) schema: Validator,
}

/// Checks all `parameters`, with values from `given`, and reports every mistake.
pub(super) fn check_all(
    parameters: &[Parameter],
    place: &str,
    mut given: impl FnMut(&str) -> Vec<String>,
) -> Result<Parameters, ApiError> {
    let mut read = Parameters::new();
    let mut mistakes = Vec::new();
    for parameter in parameters {
        let values = given(&parameter.name);
        match parameter.read(&values) {
            Ok(None) => {}
            Ok(Some(value)) => {
                let found = check::mistakes(&parameter.schema, &value);
                if found.is_empty() {
                    read.insert(parameter.name.clone(), value);
                }
                mistakes.extend(found.into_iter().map(|mistake| Field {
                    field: parameter.name.clone(),
                    ..mistake
                }));
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() {
        return Ok(read);
    }
    let names: Vec<_> = mistakes
        .iter()
        .map(|mistake| format!("{}: {}", mistake.field, mistake.message))
        .collect();
    Err(ApiError::malformed(
        format!("{place}: {}", names.join("; ")),
        mistakes,
    ))
}

/// The types of a parameter's schema other than text.
#[derive(Clone, Copy)]
pub(super) struct Reads {
    pub(super) integers: bool,
    pub(super) numbers: bool,
    pub(super) null: bool,
}

impl Parameter {
    fn read(&self, values: &[String]) -> Result<Option<Value>, Field> {
        let value = match values {
            [] if self.required => return Err(Field::new(&self.name, "required", "is missing")),
            [] => return Ok(None),
            [only] if self.list => only.split(',').map(|value| self.typed(value)).collect(),
            several if self.list => several.iter().map(|value| self.typed(value)).collect(),
            [only] => self.typed(only),
            _ => {
                return Err(Field::new(
                    &self.name,
                    "repeated",
                    "is given more than once",
                ));
            }
        };
        Ok(Some(value))
    }

    /// Text that is not a number stays text, which the schema then refuses.
    fn typed(&self, text: &str) -> Value {
        if self.reads.null && text == "null" {
            return Value::Null;
        }
        if self.reads.integers
            && let Ok(number) = text.parse::<i64>()
        {
            return Value::from(number);
        }
        match text.parse::<serde_json::Number>() {
            Ok(number) if self.reads.numbers => Value::Number(number),
            _ => Value::String(text.to_owned()),
        }
    }
}
