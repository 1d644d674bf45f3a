//! The documentation has no dead link, in the repository or on docs.rs.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Also shown on docs.rs and on a registry's page, where relative links do not work.
fn shown_elsewhere(file: &Path) -> bool {
    let name = file.file_name().unwrap();
    name == "README.md" || file.parent().is_some_and(|folder| folder.ends_with("docs"))
}

const DOCS_RS: &str = "https://docs.rs/authpi-sdk/latest/authpi_sdk/";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

#[test]
fn no_link_is_dead() {
    let root = root();
    let mut files: Vec<PathBuf> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ]
    .map(|name| root.join(name))
    .to_vec();
    for folder in ["docs", "docs/decisions", "openapi"] {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        files.extend(
            entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "md")),
        );
    }
    assert!(files.len() > 15, "the documentation has lost its files");
    let mut dead = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for link in links(&text) {
            let alive = if let Some(item) = link.strip_prefix(DOCS_RS) {
                is_in_rustdoc(&root, item)
            } else if link.contains("://") {
                true
            } else if let Some(heading) = link.strip_prefix('#') {
                has_heading(&text, heading)
            } else {
                !shown_elsewhere(file) && file.parent().unwrap().join(link).exists()
            };
            if !alive {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert_eq!(dead, [""; 0]);
}

#[test]
fn the_snippets_of_frameworks_are_from_examples() {
    let root = root();
    let examples: String = fs::read_dir(root.join("frameworks/suite/examples"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let guide = fs::read_to_string(root.join("docs/frameworks.md")).unwrap();
    let snippets: Vec<&str> = guide
        .split("```text\n")
        .skip(1)
        .map(|rest| rest.split_once("\n```").unwrap().0)
        .collect();
    assert_eq!(snippets.len(), 8, "one for each framework");
    let missing = |snippet: &&&str| !one_line(&examples).contains(&one_line(snippet));
    assert_eq!(
        snippets.iter().filter(missing).collect::<Vec<_>>(),
        [&""; 0]
    );
}

/// Without line breaks and indents, which rustfmt decides on.
fn one_line(code: &str) -> String {
    code.split_whitespace().collect()
}

/// The targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        if code {
            continue;
        }
        let targets = line.split("](").skip(1);
        found.extend(targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target)));
    }
    found
}

/// Whether the link's target is a module of the crate; of items in it, only the module is checked.
fn is_in_rustdoc(root: &Path, item: &str) -> bool {
    let modules = item
        .split('#')
        .next()
        .unwrap_or_default()
        .split('/')
        .filter(|part| !part.is_empty() && !part.contains('.'));
    let mut folder = root.join("authpi-sdk/src");
    let mut text = fs::read_to_string(folder.join("lib.rs")).unwrap();
    for module in modules {
        if !text.contains(&format!("pub mod {module}")) && !text.contains(&format!("{module}::")) {
            return false;
        }
        let file = folder.join(format!("{module}.rs"));
        folder.push(module);
        text = fs::read_to_string(&file)
            .or_else(|_| fs::read_to_string(folder.join("mod.rs")))
            .unwrap_or_default();
    }
    true
}

/// The anchors that GitHub and rustdoc create for headings.
fn has_heading(text: &str, wanted: &str) -> bool {
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .any(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let id: String = heading
                .chars()
                .filter_map(|letter| match letter {
                    ' ' => Some('-'),
                    letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
                    _ => None,
                })
                .collect();
            id == wanted
        })
}
