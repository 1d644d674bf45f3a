//! The receiver in actix-web: `AUTHPI_WEBHOOK_SECRET=whs_… cargo run --example actix_web`.

use actix_web::{App, HttpServer, web};
use authpi_actix_web::Hook;
use frameworks::{Result, receiver};

#[actix_web::main]
async fn main() -> Result {
    let hook = Hook::new(receiver()?); // outside of the closure: see the crate's documentation
    let app = hook.clone();
    let server =
        HttpServer::new(move || App::new().configure(|config| routes(config, app.clone())));
    server.bind("127.0.0.1:8080")?.run().await?; // stops on SIGTERM and Ctrl-C
    hook.drain().await;
    Ok(())
}

pub(crate) fn routes(app: &mut web::ServiceConfig, hook: Hook) {
    app.route("/hooks/authpi", web::to(hook));
}
