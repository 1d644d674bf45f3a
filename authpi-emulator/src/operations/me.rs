//! Who is calling.

use http::StatusCode;

use super::Request;
use crate::{server::Answer, state::World};

pub(super) fn get(world: &World, request: &Request<'_>) -> Answer {
    Answer::resource(StatusCode::OK, world.account.shown(request.caller))
}
