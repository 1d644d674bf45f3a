//! Golden tests: small descriptions and their generated code.
//!
//! `UPDATE_GOLDEN=1 cargo test --manifest-path xtask/Cargo.toml` writes the expected files; review
//! the difference. A description whose name starts with `refused` must cause an error.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proc_macro2::TokenStream;

use super::{Dialect, api, document::Documents, drift, events, output, published};
use crate::repository;

fn golden(folder: &str) -> PathBuf {
    repository().join("xtask/golden").join(folder)
}

/// The golden files of one kind, by their names without endings.
fn cases(folder: &str, ending: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(golden(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(ending).map(str::to_owned))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no case in {folder}");
    names
}

fn load(folder: &str, name: &str) -> Documents {
    let file = format!("{name}.yaml");
    Documents::from_text(
        &file,
        &fs::read_to_string(golden(folder).join(&file)).unwrap(),
    )
    .unwrap()
}

/// Compares `actual` with the golden file, or writes it.
fn expect(path: &Path, actual: &str, failures: &mut Vec<String>) {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|set| set == "1") {
        fs::write(path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected == actual {
        return;
    }
    let line = expected
        .lines()
        .zip(actual.lines())
        .position(|(a, b)| a != b);
    let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    failures.push(format!(
        "{}:{}\n  expected: {}\n  actual:   {}",
        path.display(),
        line + 1,
        at(&expected),
        at(actual)
    ));
}

fn check(folder: &str, generate: impl Fn(&Documents) -> Result<TokenStream>) {
    let mut failures = Vec::new();
    for name in cases(folder, ".yaml") {
        let made = generate(&load(folder, &name)).and_then(output::file);
        match made {
            Ok(code) if !name.starts_with("refused") => {
                expect(
                    &golden(folder).join(format!("{name}.rs")),
                    &code,
                    &mut failures,
                );
            }
            Err(error) if name.starts_with("refused") => {
                expect(
                    &golden(folder).join(format!("{name}.txt")),
                    &format!("{error:#}\n"),
                    &mut failures,
                );
            }
            Ok(_) => failures.push(format!("{name} was not refused")),
            Err(error) => failures.push(format!("{name} was refused: {error:#}")),
        }
    }
    assert!(
        failures.is_empty(),
        "UPDATE_GOLDEN=1 accepts what follows\n{}",
        failures.join("\n")
    );
}

fn events_of(documents: &Documents) -> Result<TokenStream> {
    Ok(events::generate(&events::Catalogue::read(
        documents.root(),
        documents,
    )?))
}

#[test]
fn each_small_description_matches_its_golden_file_or_error() {
    check("api", |documents| api(documents, Dialect::Ours));
}

#[test]
fn each_small_catalogue_matches_its_golden_file_or_error() {
    check("events", events_of);
}

#[test]
fn changes_are_told_in_the_words_of_the_description_and_weighed() {
    let mut failures = Vec::new();
    for name in cases("drift", ".old.yaml") {
        let code = |state: &str| {
            let documents = load("drift", &format!("{name}.{state}"));
            let tokens = if name.starts_with("events") {
                events_of(&documents)
            } else {
                api(&documents, Dialect::Ours)
            };
            output::file(tokens.unwrap()).unwrap()
        };
        let changes = drift::changes(&code("old"), &code("new")).unwrap();
        expect(
            &golden("drift").join(format!("{name}.txt")),
            &format!("{}\n", drift::report(&changes)),
            &mut failures,
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_description_is_no_change() {
    let code = output::file(api(&load("api", "unions"), Dialect::Ours).unwrap()).unwrap();
    assert_eq!(drift::changes(&code, &code).unwrap(), []);
}

#[test]
fn what_a_published_document_contradicts_is_listed_place_by_place() {
    let mut failures = Vec::new();
    let events: BTreeSet<String> = ["user.created", "user.deleted"].map(str::to_owned).into();
    for name in cases("published", ".ours.yaml") {
        let (ours, theirs) = (
            load("published", &format!("{name}.ours")),
            load("published", &format!("{name}.theirs")),
        );
        let report = published::report(&published::contradictions(&ours, &theirs, &events));
        expect(
            &golden("published").join(format!("{name}.txt")),
            &format!("{report}\n"),
            &mut failures,
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_unreadable_operation_is_reported_for_its_side_not_as_missing() {
    let (unreadable, theirs) = (
        load("published", "unreadable.ours"),
        load("published", "unreadable.theirs"),
    );
    for (ours, theirs, whose) in [
        (&unreadable, &theirs, "ours"),
        (&theirs, &unreadable, "theirs"),
    ] {
        let found = published::contradictions(ours, theirs, &BTreeSet::new());
        let reported = |line: &str| found.iter().any(|found| found.contains(line));
        assert!(
            reported(&format!(
                "{whose} cannot be read: unreadable.ours.yaml#/components/schemas/None"
            )),
            "{found:#?}"
        );
        for route in ["GET /v1/webhooks", "POST /v1/webhooks"] {
            assert!(
                reported(&format!(
                    "{route} is not compared: it cannot be read in {whose}"
                )),
                "{found:#?}"
            );
            assert!(!reported(&format!("{route} is not in")), "{found:#?}");
        }
    }
}

#[test]
fn what_a_published_document_closes_is_read_as_open() {
    let text = fs::read_to_string(golden("api").join("refused-received-closed.yaml")).unwrap();
    let documents =
        Documents::from_text("theirs.yaml", &text.replace("/things:", "/webhooks:")).unwrap();
    let code = api(&documents, Dialect::Published).unwrap().to_string();
    for unknown in ["Unknown (UnknownStatus)", "Unknown (UnknownAuth)"] {
        assert!(code.contains(unknown), "no {unknown}");
    }
}

#[test]
fn our_own_description_contradicts_nothing_of_itself() {
    let ours = Documents::load(&repository().join("openapi/authpi.yaml")).unwrap();
    let events = published::event_types(&repository().join("openapi/events")).unwrap();
    assert_eq!(
        published::contradictions(&ours, &ours, &events),
        Vec::<String>::new()
    );
}

#[test]
fn a_second_run_writes_the_same_bytes() {
    let ours = Documents::load(&repository().join("openapi/authpi.yaml")).unwrap();
    let run = || output::file(api(&ours, Dialect::Ours).unwrap()).unwrap();
    assert_eq!(run(), run());
}

#[test]
fn no_line_of_the_generated_code_is_longer_than_120_characters() {
    let ours = Documents::load(&repository().join("openapi/authpi.yaml")).unwrap();
    let catalogue = events::Catalogue::load(&repository().join("openapi/events")).unwrap();
    for tokens in [
        api(&ours, Dialect::Ours).unwrap(),
        events::generate(&catalogue),
    ] {
        let code = output::file(tokens).unwrap();
        let long: Vec<_> = code
            .lines()
            .filter(|line| line.chars().count() > 120)
            .collect();
        assert_eq!(long, [""; 0]);
    }
}

#[test]
fn the_lowered_document_is_openapi_3_0_with_successes_only() {
    let documents = load("api", "errors");
    let mut reader = super::Reader::new(&documents, false);
    let operations = super::operations::read(&mut reader, &documents, &|_| true);
    let (lowered, names) = super::client::lower(&operations, "1");
    assert_eq!(lowered["openapi"], "3.0.3");
    for operation in lowered["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
    {
        let statuses: Vec<_> = operation["responses"]
            .as_object()
            .context("no responses")
            .unwrap()
            .keys()
            .collect();
        assert_eq!(statuses, ["2XX"]);
    }
    assert_eq!(names, [("Thing".to_owned(), "types::Thing".to_owned())]);
}
