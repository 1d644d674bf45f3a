//! The authpi program: an emulator to run, events to trigger.
fn main() {}
