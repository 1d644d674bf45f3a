//! The receiver as an AWS Lambda function. Build it with `cargo lambda build --example lambda`.

use frameworks::{Result, receiver};

#[tokio::main]
async fn main() -> Result {
    lambda_http::run(receiver()?).await
}
