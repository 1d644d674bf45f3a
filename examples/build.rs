//! Extracts the receiver from the README, so that the program that readers copy is built, run and
//! tested unchanged.

use std::{env, error::Error, fs, path::Path};

const README: &str = "../README.md";
/// The test needs another address; nothing else is changed.
const ADDRESS: &str = r#""0.0.0.0:8080""#;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={README}");
    println!("cargo::rerun-if-changed=build.rs");
    let readme = fs::read_to_string(README)?;
    let section = readme
        .split_once("\n## A receiver\n")
        .ok_or("the README has no section \"A receiver\"")?
        .1;
    let program = section
        .split_once("```rust,no_run\n")
        .and_then(|(_, rest)| rest.split_once("```\n"));
    let program = program
        .ok_or("the section \"A receiver\" of the README has no program")?
        .0;
    if program.matches(ADDRESS).count() != 1 {
        return Err(format!("the README's receiver does not listen on {ADDRESS}").into());
    }
    let program = program.replace(ADDRESS, r#"std::env::var("LISTEN")?"#);
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("readme_receiver.rs"),
        program,
    )?;
    Ok(())
}
