//! The redb file: two tables, `objects` and `meta`.
//!
//! Key `resource NUL path`; value: revision (u64 LE), place of the resourceVersion (u32 LE), JSON. One commit is one durable
//! transaction. A format number refuses a file of a later version instead of misreading it.

use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::{Key, Object, StoreError, draft};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const HEAD: usize = 12;

pub(super) struct Disk {
    database: Database,
}

pub(super) struct Loaded {
    pub(super) revision: u64,
    pub(super) objects: Vec<Object>,
}

/// One change of a group: the new object, or a deletion.
pub(super) enum Change<'a> {
    Put(&'a Object),
    Delete(&'a Key),
}

fn open_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Open(error.into())
}

impl Disk {
    pub(super) fn open(backend: impl StorageBackend, cache_bytes: usize) -> Result<(Disk, Loaded), StoreError> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(open_error)?;
        let mut transaction = database.begin_write().map_err(open_error)?;
        transaction.set_durability(Durability::Immediate).map_err(open_error)?;
        let revision;
        {
            let mut meta = transaction.open_table(META).map_err(open_error)?;
            transaction.open_table(OBJECTS).map_err(open_error)?;
            let format = meta.get("format").map_err(open_error)?.map(|value| value.value());
            match format {
                None => {
                    meta.insert("format", FORMAT).map_err(open_error)?;
                    // Real servers never show revision 0: it means "any" in requests.
                    meta.insert("revision", 1).map_err(open_error)?;
                }
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(open_error(format!(
                        "its format is {other} and this version reads {FORMAT}; use a newer version"
                    )));
                }
            }
            revision = meta.get("revision").map_err(open_error)?.map_or(1, |value| value.value());
        }
        transaction.commit().map_err(open_error)?;

        let mut objects = Vec::new();
        let mut resources: std::collections::HashSet<Arc<str>> = std::collections::HashSet::new();
        let reader = database.begin_read().map_err(open_error)?;
        let table = reader.open_table(OBJECTS).map_err(open_error)?;
        for entry in table.iter().map_err(open_error)? {
            let (key, value) = entry.map_err(open_error)?;
            objects.push(decode(&mut resources, key.value(), value.value())?);
        }
        drop(table);
        drop(reader);
        Ok((Disk { database }, Loaded { revision, objects }))
    }

    /// Writes a group and makes it durable.
    pub(super) fn commit<'a>(&self, revision: u64, changes: impl Iterator<Item = Change<'a>>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("revision", revision)?;
            let mut table = transaction.open_table(OBJECTS)?;
            let mut record = Vec::new();
            for change in changes {
                match change {
                    Change::Put(object) => {
                        record.clear();
                        record.extend_from_slice(&object.revision.to_le_bytes());
                        record.extend_from_slice(&object.rv_at.to_le_bytes());
                        record.extend_from_slice(&object.json);
                        table.insert(encode_key(&object.key).as_str(), record.as_slice())?;
                    }
                    Change::Delete(key) => {
                        table.remove(encode_key(key).as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn encode_key(key: &Key) -> String {
    format!("{}\0{}", key.resource, key.path)
}

fn decode(resources: &mut std::collections::HashSet<Arc<str>>, key: &str, value: &[u8]) -> Result<Object, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged {
        key: key.replace('\0', " "),
        reason: reason.to_owned(),
    };
    let (resource, path) = key.split_once('\0').ok_or_else(|| damaged("the key has no resource"))?;
    let (head, json) = value.split_at_checked(HEAD).ok_or_else(|| damaged("it is too short"))?;
    let (revision, rv_at) = head.split_at(8);
    let revision = u64::from_le_bytes(revision.try_into().map_err(|_| damaged("its head is short"))?);
    let rv_at = u32::from_le_bytes(rv_at.try_into().map_err(|_| damaged("its head is short"))?);
    let parsed: serde_json::Value = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
    if !json
        .get(rv_at as usize..)
        .is_some_and(|rest| rest.starts_with(revision.to_string().as_bytes()))
    {
        return Err(damaged("its revision is not where it should be"));
    }
    let resource = match resources.get(resource) {
        Some(known) => known.clone(),
        None => {
            let new: Arc<str> = Arc::from(resource);
            resources.insert(new.clone());
            new
        }
    };
    let key = Key {
        resource,
        path: Arc::from(path),
    };
    Ok(Object {
        key,
        revision,
        json: Bytes::copy_from_slice(json),
        meta: draft::meta_of(&parsed),
        rv_at,
    })
}
