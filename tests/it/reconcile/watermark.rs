//! Stores of watermarks.

use std::{error::Error as _, path::PathBuf};

use authpi_sdk::reconcile::{FileWatermark, MemoryWatermark, Watermark};

use super::at;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("authpi-it-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The requirements of every store.
pub(crate) async fn keeps(store: &impl Watermark, again: &impl Watermark) {
    assert_eq!(store.load("users").await.unwrap(), None);
    for millis in [1, 2_000, 3_600_000] {
        store.save("users", at(millis)).await.unwrap();
        assert_eq!(store.load("users").await.unwrap(), Some(at(millis)));
        assert_eq!(
            again.load("users").await.unwrap(),
            Some(at(millis)),
            "opened once more"
        );
    }
}

/// The requirements of a store with several writers.
pub(crate) async fn never_goes_back(store: &impl Watermark) {
    store.save("others", at(20)).await.unwrap();
    store.save("others", at(10)).await.unwrap();
    assert_eq!(store.load("others").await.unwrap(), Some(at(20)));
}

#[tokio::test]
async fn a_watermark_is_found_again() {
    let store = MemoryWatermark::new();
    keeps(&store, &store.clone()).await;
    assert_eq!(store.load("audit").await.unwrap(), None);
    let folder = folder("watermarks");
    let path = folder.join("users");
    keeps(&FileWatermark::new(&path), &FileWatermark::new(&path)).await;
    let left: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["users"], "something is left beside the file");
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_several_write_to_holds_one_of_their_watermarks() {
    let folder = folder("watermarks-of-several");
    let path = folder.join("users");
    let several = (0..8).map(|n| {
        let store = FileWatermark::new(&path);
        tokio::spawn(async move {
            for millis in 0..20 {
                store.save("users", at(millis * 8 + n)).await.unwrap();
                store.load("users").await.unwrap().unwrap();
            }
        })
    });
    for one in several.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_foreign_or_invalid_watermark_file_is_an_error_not_a_fresh_start() {
    let folder = folder("no-watermarks");
    let path = folder.join("file");
    let store = FileWatermark::new(&path);
    store.save("audit", at(5)).await.unwrap();
    for (text, why) in [
        (None, "the file belongs to the endpoint audit"),
        (Some(""), "not a watermark file"),
        (
            Some("yesterday users\n"),
            "the file does not begin with a time",
        ),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = store.load("users").await.unwrap_err();
        assert_eq!(error.to_string(), "the watermark's store failed to load");
        let named = format!("{}: {why}", path.display());
        assert_eq!(error.source().map(ToString::to_string), Some(named));
    }
    let nowhere = FileWatermark::new(folder.join("no such folder").join("users"));
    assert!(nowhere.save("users", at(5)).await.is_err());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_watermark_file_keeps_its_link_and_mode_and_names_a_missing_folder() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    let folder = folder("watermarks-links");
    let (real, link) = (folder.join("real"), folder.join("link"));
    symlink("real", &link).unwrap();
    let store = FileWatermark::new(&link);
    assert_eq!(store.load("users").await.unwrap(), None);
    store.save("users", at(1)).await.unwrap();
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).unwrap();
    store.save("users", at(2)).await.unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        FileWatermark::new(&real).load("users").await.unwrap(),
        Some(at(2))
    );
    assert_eq!(
        std::fs::metadata(&real).unwrap().permissions().mode() & 0o777,
        0o640
    );
    let lost = FileWatermark::new(folder.join("missing/users"));
    for error in [
        lost.load("users").await.unwrap_err(),
        lost.save("users", at(1)).await.unwrap_err(),
    ] {
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("missing does not exist"), "{cause}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
