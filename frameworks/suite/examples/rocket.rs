//! The receiver in Rocket: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example rocket`.

use authpi_rocket::Hook;
use frameworks::{Result, receiver};
use rocket::{Build, Rocket};

#[rocket::main]
async fn main() -> Result {
    let hook = Hook::new(receiver()?);
    app(hook.clone()).launch().await?; // stops on SIGTERM and Ctrl-C
    hook.drain().await;
    Ok(())
}

pub(crate) fn app(hook: Hook) -> Rocket<Build> {
    rocket::build().mount("/hooks/authpi", hook)
}
