//! Secret stores: the requirements of each.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use authpi_sdk::{
    UnixMillis,
    endpoint::{FileSecretStore, MemorySecretStore, SecretStore, StoredSecret},
    event::{Event, types::UserCreated},
    handlers::Handlers,
    receiver::Receiver,
    signature::{Secret, SignatureScheme, Verifier},
    stores::Memory,
    testing::Fixture,
};
use jiff::Timestamp;

use crate::support::Folder;

fn kept(account_id: &str, webhook_id: &str, secret: &str) -> StoredSecret {
    let mut kept = StoredSecret::new(
        account_id,
        webhook_id,
        Timestamp::from_millisecond(7).unwrap(),
    );
    kept.secret = Some(secret.into());
    kept
}

/// The requirements of every store.
pub(crate) async fn conforms(store: &impl SecretStore) {
    let load = async |endpoint: &str| {
        let mut all = store.load(endpoint).await.unwrap();
        all.sort_by(|a, b| (&a.account_id, &a.webhook_id).cmp(&(&b.account_id, &b.webhook_id)));
        all
    };
    assert_eq!(load("users").await, []);
    store.forget("users", "acc_1", "wh_1").await.unwrap();
    let mut first = kept("acc_1", "wh_1", "whs_1");
    first.bearer_token = Some("whb_'\"\\é".into());
    let (second, elsewhere) = (
        kept("acc_1", "wh_2", "whs_2"),
        kept("acc_2", "wh_1", "whs_3"),
    );
    for kept in [&first, &second, &elsewhere] {
        store.save("users", kept).await.unwrap();
    }
    store.save("orders", &second).await.unwrap();
    assert_eq!(
        load("users").await,
        [first.clone(), second.clone(), elsewhere.clone()]
    );
    first.valid_until = Some(UnixMillis(9));
    first.bearer_token = None;
    store.save("users", &first).await.unwrap();
    assert_eq!(load("users").await, [first, second.clone(), elsewhere]);
    store.forget("users", "acc_1", "wh_1").await.unwrap();
    store.forget("users", "acc_2", "wh_1").await.unwrap();
    assert_eq!(load("users").await, std::slice::from_ref(&second));
    assert_eq!(load("orders").await, [second]);
}

#[tokio::test]
async fn memory_keeps_what_it_is_given() {
    conforms(&MemorySecretStore::new()).await;
}

#[tokio::test]
async fn a_file_keeps_what_it_is_given_and_shows_it_to_its_owner_alone() {
    let folder = Folder::new();
    let path = folder.path().join("secrets.json");
    conforms(&FileSecretStore::new(&path)).await;
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["secrets.json", "secrets.json.lock"]);
    for name in names {
        let mode = std::fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_file_that_all_may_read_is_refused_and_one_that_is_not_ours_too() {
    let folder = Folder::new();
    let path = folder.path().join("secrets.json");
    let store = FileSecretStore::new(&path);
    store
        .save("users", &kept("acc_1", "wh_1", "whs_very_secret"))
        .await
        .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let reported = |error: authpi_sdk::endpoint::SecretStoreError| {
        format!(
            "{error} {error:?} {}",
            std::error::Error::source(&error).unwrap()
        )
    };
    let open = reported(store.load("users").await.unwrap_err());
    assert!(open.contains("chmod 600"), "{open}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(
        &path,
        r#"{"users":[{"account_id":7,"secret":"whs_very_secret"}]}"#,
    )
    .unwrap();
    let odd = reported(store.load("users").await.unwrap_err());
    assert!(
        odd.contains("not a secret file") && !odd.contains("very_secret"),
        "{odd}"
    );
    assert!(
        store
            .save("users", &kept("acc_1", "wh_1", "s"))
            .await
            .is_err(),
        "a foreign file was overwritten"
    );
}

#[tokio::test]
async fn a_secret_file_keeps_its_link_and_survives_a_dead_writer() {
    let folder = Folder::new();
    let real = folder.path().join("real.json");
    let link = folder.path().join("link.json");
    FileSecretStore::new(&real)
        .save("users", &kept("acc_1", "wh_1", "whs_1"))
        .await
        .unwrap();
    std::fs::write(folder.path().join("real.json.next"), "half").unwrap();
    symlink(&real, &link).unwrap();
    FileSecretStore::new(&link)
        .save("users", &kept("acc_1", "wh_2", "whs_2"))
        .await
        .unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        FileSecretStore::new(&real)
            .load("users")
            .await
            .unwrap()
            .len(),
        2
    );
}

#[tokio::test]
async fn a_link_to_a_file_that_is_not_there_yet_stays_a_link() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("mounted")).unwrap();
    let (real, link, relative) = (
        folder.path().join("mounted/real.json"),
        folder.path().join("link.json"),
        folder.path().join("second.json"),
    );
    symlink(&real, &link).unwrap();
    symlink("link.json", &relative).unwrap();
    assert_eq!(
        FileSecretStore::new(&relative).load("users").await.unwrap(),
        []
    );
    FileSecretStore::new(&relative)
        .save("users", &kept("acc_1", "wh_1", "whs_1"))
        .await
        .unwrap();
    FileSecretStore::new(&link)
        .save("users", &kept("acc_1", "wh_2", "whs_2"))
        .await
        .unwrap();
    for link in [&link, &relative] {
        assert!(std::fs::symlink_metadata(link).unwrap().is_symlink());
        assert_eq!(
            FileSecretStore::new(link)
                .load("users")
                .await
                .unwrap()
                .len(),
            2
        );
    }
    assert_eq!(
        FileSecretStore::new(&real)
            .load("users")
            .await
            .unwrap()
            .len(),
        2
    );
    assert!(
        folder.path().join("mounted/real.json.lock").exists()
            && !folder.path().join("link.json.lock").exists()
    );
}

#[tokio::test]
async fn a_file_that_is_there_keeps_its_mode() {
    let folder = Folder::new();
    let path = folder.path().join("secrets.json");
    let store = FileSecretStore::new(&path);
    store
        .save("users", &kept("acc_1", "wh_1", "whs_1"))
        .await
        .unwrap();
    for mode in [0o640, 0o660, 0o400, 0o600] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        store
            .save("users", &kept("acc_1", "wh_1", "whs_2"))
            .await
            .unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            mode,
            "{mode:o}"
        );
    }
}

#[tokio::test]
async fn a_lock_that_is_never_let_go_stops_a_writer_for_a_limited_time_only() {
    let folder = Folder::new();
    let path = folder.path().join("secrets.json");
    let store = FileSecretStore::new(&path).lock_timeout(std::time::Duration::from_millis(50));
    store
        .save("users", &kept("acc_1", "wh_1", "whs_1"))
        .await
        .unwrap();
    // Like a replica that was stopped in the middle of a change.
    let held = std::fs::File::open(folder.path().join("secrets.json.lock")).unwrap();
    held.lock().unwrap();
    let error = store
        .save("users", &kept("acc_1", "wh_2", "whs_2"))
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("secrets.json.lock has been locked for more than 50ms"),
        "{cause}"
    );
    assert!(store.forget("users", "acc_1", "wh_1").await.is_err());
    assert_eq!(
        store.load("users").await.unwrap().len(),
        1,
        "reading needs no lock"
    );
    drop(held);
    store
        .save("users", &kept("acc_1", "wh_2", "whs_2"))
        .await
        .unwrap();
    assert_eq!(store.load("users").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let folder = Folder::new();
    let path = folder.path().join("missing/secrets.json");
    let store = FileSecretStore::new(&path);
    for error in [
        store
            .save("users", &kept("acc_1", "wh_1", "very_secret"))
            .await
            .unwrap_err(),
        store.load("users").await.unwrap_err(),
    ] {
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(
            cause.contains(&format!(
                "{} does not exist",
                folder.path().join("missing").display()
            )),
            "{cause}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_one_file_lose_nothing() {
    let folder = Folder::new();
    let path = folder.path().join("secrets.json");
    let writers: Vec<_> = (0..16)
        .map(|n| {
            let store = FileSecretStore::new(&path);
            tokio::spawn(async move {
                let id = format!("wh_{n}");
                store.save("users", &kept("acc_1", &id, "s")).await.unwrap();
                // Meanwhile a reader sees a complete file.
                assert!(
                    store
                        .load("users")
                        .await
                        .unwrap()
                        .iter()
                        .any(|kept| kept.webhook_id == id)
                );
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(
        FileSecretStore::new(&path)
            .load("users")
            .await
            .unwrap()
            .len(),
        16
    );
}

#[tokio::test(start_paused = true)]
async fn revoking_the_last_secret_stops_a_receiver_until_a_new_one_comes() {
    let sent = |secret: &str| {
        Fixture::of::<UserCreated>()
            .request(&SignatureScheme::authpi(), &Secret::new(secret))
            .unwrap()
    };
    let expired = || {
        let mut kept = kept("acc_1", "wh_1", "whs_1");
        kept.valid_until = Some(UnixMillis(1));
        kept
    };
    for forgotten in [true, false] {
        let store = MemorySecretStore::new();
        store
            .save("users", &kept("acc_1", "wh_1", "whs_1"))
            .await
            .unwrap();
        let keys = store.keys("users").await.unwrap();
        let handlers = Handlers::new(()).on(async |_: Event<UserCreated>, _| Ok(()));
        let verifier = Verifier::authpi(keys.signatures.clone());
        let hook = Receiver::inline("users", verifier, Memory::new(), handlers)
            .build()
            .unwrap();
        assert_eq!(hook.receive(sent("whs_1")).await.status(), 200);
        let following = {
            let store = store.clone();
            tokio::spawn(async move {
                keys.follow(&store, "users", std::time::Duration::from_secs(10))
                    .await
            })
        };
        if forgotten {
            store.forget("users", "acc_1", "wh_1").await.unwrap();
        } else {
            store.save("users", &expired()).await.unwrap();
        }
        let answers = async |secret: &str, status: u16| {
            for _ in 0..100 {
                if hook.receive(sent(secret)).await.status() == status {
                    return true;
                }
                tokio::time::advance(std::time::Duration::from_secs(1)).await;
                tokio::task::yield_now().await;
            }
            false
        };
        assert!(
            answers("whs_1", 500).await,
            "a revoked secret is still trusted, forgotten: {forgotten}"
        );
        store
            .save("users", &kept("acc_1", "wh_2", "whs_2"))
            .await
            .unwrap();
        assert!(answers("whs_2", 200).await, "the new secret is not trusted");
        assert_eq!(hook.receive(sent("whs_1")).await.status(), 401);
        following.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn keys_that_follow_a_store_take_over_what_another_replica_keeps() {
    let store = MemorySecretStore::new();
    store
        .save("users", &kept("acc_1", "wh_1", "whs_1"))
        .await
        .unwrap();
    let keys = store.keys("users").await.unwrap();
    let ring = keys.signatures.clone();
    let following = {
        let store = store.clone();
        tokio::spawn(async move {
            keys.follow(&store, "users", std::time::Duration::from_secs(10))
                .await
        })
    };
    let mut newer = StoredSecret::new("acc_1", "wh_2", Timestamp::from_millisecond(8).unwrap());
    newer.secret = Some(Secret::new("whs_2"));
    store.save("users", &newer).await.unwrap();
    while ring.names() != ["wh_2", "wh_1"] {
        tokio::task::yield_now().await;
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    following.abort();
}
