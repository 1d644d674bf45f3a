use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{SecretStore, SecretStoreError, StoredSecret};

/// Secrets in memory, **for tests**: they are lost when the process ends. Clones share them.
#[derive(Clone, Default)]
pub struct MemorySecretStore(Arc<Mutex<HashMap<String, Vec<StoredSecret>>>>);

impl MemorySecretStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, endpoint: &str, change: impl FnOnce(&mut Vec<StoredSecret>) -> T) -> T {
        change(
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(endpoint.to_owned())
                .or_default(),
        )
    }
}

impl SecretStore for MemorySecretStore {
    async fn load(&self, endpoint: &str) -> Result<Vec<StoredSecret>, SecretStoreError> {
        Ok(self.with(endpoint, |all| all.clone()))
    }

    async fn save(&self, endpoint: &str, kept: &StoredSecret) -> Result<(), SecretStoreError> {
        self.with(endpoint, |all| kept.put_into(all));
        Ok(())
    }

    async fn forget(
        &self,
        endpoint: &str,
        account_id: &str,
        webhook_id: &str,
    ) -> Result<(), SecretStoreError> {
        self.with(endpoint, |all| {
            all.retain(|kept| !kept.is_of(account_id, webhook_id));
        });
        Ok(())
    }
}

impl fmt::Debug for MemorySecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySecretStore").finish_non_exhaustive()
    }
}
