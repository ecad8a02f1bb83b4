//! A store in memory: the reference of what a store does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::{Created, Store, StoreError};

/// Objects in memory, gone with the value.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    /// A store that holds these objects.
    pub fn holding(objects: BTreeMap<String, Bytes>) -> Self {
        Self { objects: Mutex::new(objects) }
    }

    /// A copy of everything it holds.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let mut objects = self.locked();
        if objects.contains_key(path) {
            return Ok(Created::Exists);
        }
        objects.insert(path.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(Created::New)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.locked().insert(path.to_owned(), Bytes::copy_from_slice(bytes));
        Ok(())
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.locked().get(path).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let below = |path: &&String| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        Ok(self.locked().keys().filter(|path| folder.is_empty() || below(path)).cloned().collect())
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.locked().remove(path);
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        Ok(self.locked().contains_key(path))
    }
}
