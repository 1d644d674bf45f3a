//! The SDK's folders are floors of one house: each imports only those below it.

use std::{collections::BTreeSet, fs, path::Path};

/// From the ground up; what stands in one line does not know each other.
const FLOORS: &[&[&str]] = &[
    &[
        "time",
        "hex",
        "json",
        "files",
        "crash",
        "telemetry",
        "backoff",
    ],
    &["event"],
    &["signature", "ledger"],
    &["stores"],
    &["handlers"],
    &["receiver", "client", "testing"],
    &["worker", "endpoint"],
    &["reconcile"],
];
/// Under `event` and `client`: it writes out their types, so it names them, and is named by them.
const GENERATED: &str = "generated";
/// Crates that the slow-moving floors do not know.
const EDGE: &[&str] = &[
    "axum",
    "axum_core",
    "hyper",
    "progenitor_client",
    "reqwest",
    "tower_service",
];
const SLOW: &[&str] = &["event", "signature", "ledger"];

#[test]
fn a_floor_imports_only_floors_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("authpi-sdk")
        .join("src");
    let modules = modules(&source);
    assert!(modules.len() > 8, "authpi-sdk/src has lost its folders");
    for (name, text) in &modules {
        let height =
            height(name).unwrap_or_else(|| panic!("{name} stands on no floor; FLOORS has to tell"));
        for imported in imports(text)
            .into_iter()
            .filter(|imported| imported != name && imported != GENERATED)
        {
            // `crate::Clock` and the like are what the ground floor exports at the root.
            let below = self::height(&imported).is_none_or(|other| other < height);
            assert!(below, "{name} imports {imported}");
        }
        for edge in EDGE.iter().filter(|_| SLOW.contains(&name.as_str())) {
            assert!(!text.contains(&format!("{edge}::")), "{name} knows {edge}");
        }
    }
}

fn height(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Name and text, comments left out, of each module at the root but the generated one.
fn modules(source: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let modules = entries.map(|path| {
        (
            path.file_stem().unwrap().to_string_lossy().into_owned(),
            text(&path),
        )
    });
    modules
        .filter(|(name, _)| name != "lib" && name != "guide" && name != GENERATED)
        .collect()
}

fn text(path: &Path) -> String {
    if path.is_dir() {
        return fs::read_dir(path)
            .unwrap()
            .map(|entry| text(&entry.unwrap().path()))
            .collect();
    }
    if path.extension().is_none_or(|extension| extension != "rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

/// What follows `crate::`, be it one name or a list in braces.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in text.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            found.insert(first_name(path));
            continue;
        };
        let mut depth = 0_i32;
        let mut at_start = true;
        for (place, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_start = true,
                _ if at_start && !letter.is_whitespace() => {
                    found.insert(first_name(&list[place..]));
                    at_start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}
