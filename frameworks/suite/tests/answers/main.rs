//! Each framework answers as the receiver does: over real HTTP, with the code of its example.

mod http;
mod lambda;
mod misbehaving;
mod servers;
mod verified;

use std::{collections::BTreeSet, fs, path::Path};

use authpi_sdk::Receiver;
use frameworks::scenarios::{SCENARIOS, Scenario};

use crate::{http::Answer, servers::Server};

/// The golden files of the SDK's own tests.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/answers");

fn golden(name: &str) -> String {
    let path = Path::new(GOLDEN).join(format!("{name}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_golden(answer: Option<Answer>, name: &str, about: &str) {
    let answer = answer.unwrap_or_else(|| panic!("{about}: no answer"));
    assert_eq!(answer.text(), golden(name), "{about}");
}

/// Sends the requests of all scenarios, and compares the answers.
async fn assert_answers<S: Server>(serve: impl AsyncFn(Receiver) -> S) {
    for scenario in SCENARIOS {
        let server = serve(scenario.receiver().await).await;
        assert_scenario(scenario, &server).await;
    }
}

async fn assert_scenario(scenario: &Scenario, server: &impl Server) {
    for (step, (sent, name)) in (scenario.steps)().into_iter().enumerate() {
        let about = format!("{}, step {step}", scenario.name);
        assert_golden(http::send(server.address(), &sent).await, name, &about);
    }
}

/// The answers that need more than a sender; tested in `misbehaving`.
const OTHERS: [&str; 4] = ["interrupted", "shed", "too-many", "too-slow"];

#[test]
fn every_answer_of_a_receiver_is_in_a_scenario() {
    let files = fs::read_dir(GOLDEN).unwrap();
    let all: BTreeSet<String> = files
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let steps = SCENARIOS.iter().flat_map(|scenario| (scenario.steps)());
    let covered: BTreeSet<String> = steps
        .map(|(_, name)| name)
        .chain(OTHERS)
        .map(str::to_owned)
        .collect();
    assert_eq!(all, covered);
}
