use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

use super::{Watermark, WatermarkError};

/// Keeps watermarks until the process ends. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryWatermark(Arc<Mutex<HashMap<String, Timestamp>>>);

impl MemoryWatermark {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Watermark for MemoryWatermark {
    async fn load(&self, endpoint: &str) -> Result<Option<Timestamp>, WatermarkError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(endpoint)
            .copied())
    }

    async fn save(&self, endpoint: &str, at: Timestamp) -> Result<(), WatermarkError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.to_owned(), at);
        Ok(())
    }
}
