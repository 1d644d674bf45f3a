//! Golden files: `UPDATE_GOLDEN=1 cargo test` rewrites them.

use std::{env, fs, path::Path};

/// Compares `actual` with the file `tests/golden/<name>`, or writes that file.
#[track_caller]
pub(crate) fn assert_golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(
        actual, expected,
        "{name} is not as it was; UPDATE_GOLDEN=1 accepts the change"
    );
}
