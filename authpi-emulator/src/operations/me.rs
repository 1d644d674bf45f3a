//! The caller.

use http::StatusCode;

use super::Request;
use crate::{answer::Answer, state::State};

pub(super) fn get(world: &State, request: &Request<'_>) -> Answer {
    Answer::resource(StatusCode::OK, world.account.shown(request.caller))
}
