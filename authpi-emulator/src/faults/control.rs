//! `/_emulator/faults`: GET shows the plan, PUT replaces it, DELETE clears it.

use http::{Method, StatusCode, request};
use serde_json::json;

use super::{FaultPlan, FaultState, InvalidPlan};
use crate::{
    answer::Answer,
    error::{ApiError, Field},
    openapi::json_body,
};

/// The path of the control endpoint.
pub(crate) const PATH: &str = "/_emulator/faults";

/// Responds with the plan after the call. An invalid plan gets 422, and the previous one stays.
pub(crate) fn answer(
    faults: &FaultState,
    parts: &request::Parts,
    body: &[u8],
) -> Result<Answer, ApiError> {
    match parts.method {
        Method::PUT => {
            let body = json_body(&parts.headers, body)?;
            let plan: FaultPlan = serde_json::from_value(body).map_err(|error| {
                ApiError::invalid(vec![Field::new("body", "invalid_value", error.to_string())])
            })?;
            faults.set(plan)?;
        }
        Method::DELETE => faults.clear(),
        _ => {}
    }
    Ok(Answer::json(StatusCode::OK, json!({"data": faults.plan()})))
}

impl From<InvalidPlan> for ApiError {
    fn from(InvalidPlan { field, message }: InvalidPlan) -> Self {
        Self::invalid(vec![Field::new(field, "invalid_value", message)])
    }
}
