//! Misuse that does not compile: the programs in `tests/ui`.
//!
//! Each line that the compiler must refuse ends with `//~` and the error code; no other line may be
//! refused. Codes are the same in every version of the compiler, unlike its messages, so only codes
//! are compared. `allowed.rs`, without a mark, shows that the others fail for the stated reason.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// Program, line, code.
type Refusal = (String, u64, String);

#[test]
fn the_compiler_refuses_what_the_types_forbid_and_nothing_else() {
    let programs = programs();
    assert!(programs.len() > 5, "tests/ui has lost its programs");
    let expected: BTreeSet<Refusal> = programs.iter().flat_map(|program| marks(program)).collect();
    let (refused, reported) = check(&project(&programs));
    assert_eq!(refused, expected, "\n{reported}");
}

fn programs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The marks in a program.
fn marks(program: &Path) -> Vec<Refusal> {
    let text = fs::read_to_string(program).unwrap();
    let mark = |(line, number): (&str, u64)| {
        let (_, code) = line.split_once("//~ ")?;
        Some((stem(program), number, code.trim().to_owned()))
    };
    text.lines().zip(1..).filter_map(mark).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

/// A package with the programs as its examples, and a lock file. It is outside of the workspace, in
/// which everything must compile.
fn project(programs: &[PathBuf]) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ui");
    fs::create_dir_all(project.join("src")).unwrap();
    let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
    let example = |program: &PathBuf| {
        format!(
            "\n[[example]]\nname = \"{}\"\npath = {}\n",
            stem(program),
            quoted(program)
        )
    };
    let manifest = format!(
        "[package]\nname = \"ui\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         authpi-sdk = {{ path = {}, default-features = false, features = [\"nats\"] }}\n{}",
        quoted(&tests.with_file_name("authpi-sdk")),
        programs.iter().map(example).collect::<String>()
    );
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    fs::write(project.join("src/lib.rs"), "").unwrap();
    fs::copy(
        tests.with_file_name("Cargo.lock"),
        project.join("Cargo.lock"),
    )
    .unwrap();
    project
}

/// The errors in the project's examples, and the compiler's messages.
fn check(project: &Path) -> (BTreeSet<Refusal>, String) {
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--quiet",
            "--offline",
            "--examples",
            "--keep-going",
            "--message-format=json",
        ])
        .arg("--target-dir")
        .arg(project.join("target"))
        .current_dir(project)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let messages: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let errors = || {
        messages
            .iter()
            .filter(|message| message["message"]["level"] == "error")
    };
    let refused = errors()
        .filter_map(|error| {
            let spans = error["message"]["spans"].as_array()?;
            let line =
                spans.iter().find(|span| span["is_primary"] == true)?["line_start"].as_u64()?;
            let code = error["message"]["code"]["code"]
                .as_str()
                .unwrap_or("no code");
            Some((
                error["target"]["name"].as_str()?.to_owned(),
                line,
                code.to_owned(),
            ))
        })
        .collect();
    let reported: String = errors()
        .filter_map(|error| error["message"]["rendered"].as_str())
        .collect();
    (refused, reported + &String::from_utf8_lossy(&output.stderr))
}
