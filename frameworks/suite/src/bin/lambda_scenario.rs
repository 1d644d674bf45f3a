//! A Lambda function with the receiver of the scenario that is named by the argument.

use frameworks::{Result, scenarios::Scenario};

#[tokio::main]
async fn main() -> Result {
    let name = std::env::args().nth(1).ok_or("name a scenario")?;
    let scenario = Scenario::named(&name).ok_or("there is no such scenario")?;
    lambda_http::run(scenario.receiver().await).await
}
