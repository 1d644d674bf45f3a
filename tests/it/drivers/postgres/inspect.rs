//! The inspector, as a role that can only read and on a standby.

use authpi_sdk::{
    ledger::{
        LeaseStatus, Ledger as _, RecordState,
        conformance::{self, inspect::InspectorHarness},
        inspect::{Filter, InspectError, InspectErrorKind, Inspector as _},
    },
    stores::{Postgres, PostgresInspector},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{Tables, dead, pool};
use crate::{
    drivers::{granted, handled, key},
    servers::{
        postgres::{PostgresServer, fresh_prefix},
        until,
    },
};

/// The URL of a role of this server that has these privileges only.
async fn reader(server: &PostgresServer, prefix: &str, tables: &[&str]) -> String {
    let role = format!("{prefix}reader");
    let made = format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')
         THEN CREATE ROLE {role} LOGIN; END IF; END $$;"
    );
    let granted = tables
        .iter()
        .map(|table| format!("GRANT SELECT ON {prefix}{table} TO {role};"));
    let sql = made + &granted.collect::<String>();
    let mut other = server.connection().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut other)
        .await
        .unwrap();
    server.url().replace("postgres@", &format!("{role}@"))
}

impl InspectorHarness for Tables {
    type Inspector = PostgresInspector;

    async fn inspector(&self, _: &Postgres) -> PostgresInspector {
        let prefix = self.newest.lock().unwrap().clone();
        let url = reader(self.server, &prefix, &["schema", "ledger"]).await;
        Postgres::options()
            .prefix(prefix)
            .inspect(&url)
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inspector_that_may_only_select_conforms() {
    let server = PostgresServer::shared().await;
    let tables = Tables {
        server,
        pool: pool(server),
        options: Postgres::options,
        newest: std::sync::Mutex::default(),
    };
    conformance::inspect::run(&tables).await;
    conformance::inspect::run_inbox(&tables).await;
}

async fn refused(
    opening: impl Future<Output = Result<PostgresInspector, InspectError>>,
) -> InspectError {
    opening.await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_standby_can_be_inspected() {
    let primary = PostgresServer::start().await;
    let standby = primary.standby().await;
    let error = refused(Postgres::inspect(&standby.url())).await;
    assert_eq!(error.kind(), InspectErrorKind::Missing, "{error}");

    let ledger = Postgres::connect(&primary.url()).await.unwrap();
    handled(&ledger, 0).await;
    let token = granted(&ledger, 1).await;
    let completion = dead("poisoned", b"{}");
    let given_up = ledger.complete(&key(1), token, completion).await;
    assert_eq!(given_up.unwrap(), LeaseStatus::Held);
    for by_url in [true, false] {
        let open = || async {
            let inspector = if by_url {
                Postgres::inspect(&standby.url()).await
            } else {
                Postgres::inspect_pool(pool(&standby)).await
            };
            let inspector = inspector.ok()?;
            let view = inspector.get(&key(1)).await.ok()??;
            (view.state == RecordState::Dead).then_some(inspector)
        };
        let inspector = until(|| "the standby does not follow".to_owned(), open).await;
        assert_eq!(inspector.endpoints().await.unwrap(), ["users"]);
        let page = inspector.list(&Filter::new("users")).await.unwrap();
        assert!(page.newest_first);
        assert_eq!(page.records.len(), 2);
        assert_eq!(page.records[0].reason.as_deref(), Some("poisoned"));
        let counts = inspector.status("users").await.unwrap().counts.unwrap();
        assert_eq!((counts.handled, counts.dead), (1, 1));
    }
}

#[tokio::test]
async fn a_role_without_select_gets_the_name_of_the_missing_privilege() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let options = || Postgres::options().prefix(&prefix);
    drop(options().open(pool(server)).await.unwrap());
    let url = reader(server, &prefix, &[]).await;
    let error = refused(options().inspect(&url)).await;
    assert_eq!(error.kind(), InspectErrorKind::Denied);
    assert!(error.to_string().contains("needs SELECT"), "{error}");

    reader(server, &prefix, &["schema"]).await;
    let inspector = options().inspect(&url).await.unwrap();
    let error = inspector.endpoints().await.unwrap_err();
    assert_eq!(error.kind(), InspectErrorKind::Denied);
}

#[tokio::test]
async fn tables_that_are_missing_or_of_another_version_are_refused() {
    let (server, prefix) = (PostgresServer::shared().await, fresh_prefix());
    let options = || Postgres::options().prefix(&prefix);
    let error = refused(options().inspect(&server.url())).await;
    assert_eq!(error.kind(), InspectErrorKind::Missing);
    assert!(
        error
            .to_string()
            .contains(&format!("no tables {prefix}… of a ledger")),
        "{error}"
    );
    let mut other = server.connection().await.unwrap();
    let made = format!("SELECT to_regclass('{prefix}ledger') IS NULL");
    assert!(
        sqlx::query_scalar::<_, bool>(AssertSqlSafe(made))
            .fetch_one(&mut other)
            .await
            .unwrap()
    );

    drop(options().open(pool(server)).await.unwrap());
    for (version, advice) in [
        (1_000, "or a later one"),
        (1, "made by an unreleased authpi-sdk"),
    ] {
        let set = format!("UPDATE {prefix}schema SET version = {version}");
        other.execute(AssertSqlSafe(set)).await.unwrap();
        for error in [
            refused(options().inspect(&server.url())).await,
            refused(options().inspect_pool(pool(server))).await,
        ] {
            assert_eq!(error.kind(), InspectErrorKind::Incompatible);
            let text = error.to_string();
            assert!(
                text.contains(advice) && text.contains(&format!("version {version}")),
                "{text}"
            );
        }
    }
}
