//! Uses a SQLite ledger with 64 events in flight, and prints the responses, until it is killed.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use authpi_sdk::{
    ledger::{
        Appended, Claim, Completion, Digest, EventKey, Inbox as _, LeaseStatus, Ledger as _,
        Transactional as _,
    },
    stores::Sqlite,
};

const IN_FLIGHT: usize = 64;
const DIGEST: Digest = Digest::from_bytes([7; 16]);
const LEASE: Duration = Duration::from_mins(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (path, first) = (
        arguments.next().ok_or("a file")?,
        arguments.next().ok_or("a number")?,
    );
    let ledger = Sqlite::open(path).await?;
    let next = Arc::new(AtomicUsize::new(first.parse()?));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (ledger, next) = (ledger.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                work(&ledger, n).await.expect("the ledger works");
            }
        });
    }
    // Until one panics.
    tasks.join_next().await.ok_or("no task")??;
    Ok(())
}

async fn work(ledger: &Sqlite, n: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let key = EventKey::new("users", n.to_string());
    if n.is_multiple_of(3) {
        let stored = ledger
            .append(&key, DIGEST, None, n.to_string().into())
            .await?;
        assert_eq!(stored, Appended::Stored);
        println!("stored {n}");
        return Ok(());
    }
    let Claim::Granted { token, .. } = ledger.claim(&key, DIGEST, LEASE).await? else {
        return Err("not granted".into());
    };
    println!("claimed {n}");
    if n % 3 == 1 {
        assert_eq!(
            ledger.complete(&key, token, Completion::Handled).await?,
            LeaseStatus::Held
        );
        println!("handled {n}");
    } else if n % 30 == 2 {
        let mut transaction = ledger.begin().await?;
        let sell = sqlx::query("INSERT INTO sold (id) VALUES (?1)").bind(n.to_string());
        sell.execute(&mut *transaction).await?;
        assert_eq!(
            ledger.commit(transaction, &key, token).await?,
            LeaseStatus::Held
        );
        println!("sold {n}");
    }
    Ok(())
}
