//! The store's promises: group commit, revisions, pages at a revision, bounded memory, and what survives a power cut.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use serde_json::{Value, json};

use super::*;

/// A disk that forgets, reorders and tears what was not synced when the power is cut.
///
/// `durable` is what the last sync made safe; `pending` are the writes after it, in order. A cut keeps an arbitrary subset
/// of them, some only in part.
#[derive(Debug, Default)]
struct Platter {
    durable: Vec<u8>,
    pending: Vec<Pending>,
    syncs: u64,
    cut: bool,
}

#[derive(Debug, Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

fn put(image: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + data.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(data);
}

impl Platter {
    fn now(&self) -> Vec<u8> {
        let mut image = self.durable.clone();
        for pending in &self.pending {
            match pending {
                Pending::Write(offset, data) => put(&mut image, *offset, data),
                Pending::Length(length) => image.resize(*length as usize, 0),
            }
        }
        image
    }

    /// What is found after a power cut: decided by a seed.
    fn after_cut(&self, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut image = self.durable.clone();
        for pending in &self.pending {
            match pending {
                Pending::Write(offset, data) => match random() % 3 {
                    0 => {}
                    1 => put(&mut image, *offset, data),
                    _ => {
                        // Torn at a sector.
                        let keep = (random() as usize % (data.len() / 512 + 1)) * 512;
                        put(&mut image, *offset, &data[..keep.min(data.len())]);
                    }
                },
                Pending::Length(length) => {
                    let longer = *length as usize > image.len();
                    if longer || random() % 2 == 0 {
                        image.resize(*length as usize, 0);
                    }
                }
            }
        }
        image
    }
}

#[derive(Debug, Clone)]
struct Disk {
    platter: Arc<Mutex<Platter>>,
    /// A planted fault: syncs that do nothing.
    lazy: bool,
}

impl Disk {
    fn new(lazy: bool) -> Disk {
        Disk {
            platter: Arc::default(),
            lazy,
        }
    }

    fn on(image: Vec<u8>, lazy: bool) -> Disk {
        Disk {
            platter: Arc::new(Mutex::new(Platter {
                durable: image,
                ..Platter::default()
            })),
            lazy,
        }
    }

    fn live(&self) -> Result<std::sync::MutexGuard<'_, Platter>, std::io::Error> {
        let platter = self.platter.lock().unwrap_or_else(PoisonError::into_inner);
        if platter.cut {
            Err(std::io::Error::other("the power is cut"))
        } else {
            Ok(platter)
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.live()?.now().len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        let image = self.live()?.now();
        let start = offset as usize;
        let found = image
            .get(start..start + out.len())
            .ok_or_else(|| std::io::Error::other("read past the end"))?;
        out.copy_from_slice(found);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.live()?.pending.push(Pending::Length(len));
        Ok(())
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        let mut platter = self.live()?;
        platter.syncs += 1;
        if !self.lazy {
            platter.durable = platter.now();
            platter.pending.clear();
        }
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.live()?.pending.push(Pending::Write(offset, data.to_vec()));
        Ok(())
    }
}

fn things() -> Arc<str> {
    Arc::from("example.com/things")
}

fn limits() -> Limits {
    Limits {
        ring_events: 64,
        ..Limits::default()
    }
}

fn object(name: &str, value: u64) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Thing", "metadata": { "name": name, "uid": format!("uid-{name}") }, "spec": { "value": value } })
}

fn put_write(name: &str, value: u64, expect: Expect) -> Write {
    Write::Put {
        key: Key::new(&things(), "default", name),
        expect,
        draft: Draft::new(&object(name, value)),
        require: None,
    }
}

#[tokio::test]
async fn writes_are_checked_against_the_current_version_and_carry_their_revision() {
    let store = Store::open_on(Disk::new(false), limits()).expect("opens");
    let first = store.commit(put_write("a", 1, Expect::Absent)).await.expect("created");
    assert_eq!(first.value()["metadata"]["resourceVersion"], first.revision.to_string());
    assert!(first.value().get("kind").is_none(), "the type is not stored");
    assert!(matches!(
        store.commit(put_write("a", 2, Expect::Absent)).await,
        Err(StoreError::Exists)
    ));
    assert!(matches!(
        store.commit(put_write("a", 2, Expect::Revision(1))).await,
        Err(StoreError::Conflict)
    ));
    assert!(matches!(
        store.commit(put_write("b", 2, Expect::Revision(1))).await,
        Err(StoreError::NotFound)
    ));
    let second = store
        .commit(put_write("a", 2, Expect::Revision(first.revision)))
        .await
        .expect("updated");
    assert_eq!(second.revision, first.revision + 1);
    let gone = store
        .commit(Write::Delete {
            key: first.key.clone(),
            revision: second.revision,
        })
        .await
        .expect("deleted");
    assert_eq!(gone.value()["metadata"]["resourceVersion"], (second.revision + 1).to_string());
    assert_eq!(gone.value()["spec"]["value"], 2);
    assert!(store.get(&first.key).is_none());
    assert_eq!(store.revision(), gone.revision);
}

#[tokio::test]
async fn concurrent_writers_share_commits_and_exactly_one_wins_each_version() {
    let store = Store::open_on(
        Disk::new(false),
        Limits {
            ring_events: 4096,
            ..limits()
        },
    )
    .expect("opens");
    store.commit(put_write("hot", 0, Expect::Absent)).await.expect("created");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..16u64 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut won = 0;
            for n in 0..20u64 {
                store
                    .commit(put_write(&format!("own-{writer}-{n}"), n, Expect::Absent))
                    .await
                    .expect("created");
                loop {
                    let current = store.get(&Key::new(&things(), "default", "hot")).expect("exists");
                    let value = current.value()["spec"]["value"].as_u64().expect("a number");
                    match store.commit(put_write("hot", value + 1, Expect::Revision(current.revision))).await {
                        Ok(_) => {
                            won += 1;
                            break;
                        }
                        Err(StoreError::Conflict) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            won
        });
    }
    let total: u64 = tasks.join_all().await.into_iter().sum();
    let hot = store.get(&Key::new(&things(), "default", "hot")).expect("exists").value();
    assert_eq!((total, hot["spec"]["value"].as_u64()), (320, Some(320)), "no update was lost");
    let (commits, writes) = store.counters();
    assert_eq!(writes, 641);
    assert!(commits < writes, "writers shared commits: {commits} commits for {writes} writes");
}

#[tokio::test]
async fn a_write_that_requires_a_namespace_sees_the_deletion_in_its_own_group() {
    let store = Store::open_on(Disk::new(false), limits()).expect("opens");
    let namespaces: Arc<str> = Arc::from("/namespaces");
    let key = Key::new(&namespaces, "", "gone");
    let namespace = |deleting: bool| {
        let mut value = json!({ "metadata": { "name": "gone" } });
        if deleting {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Draft::new(&value)
    };
    let made = store
        .commit(Write::Put {
            key: key.clone(),
            expect: Expect::Absent,
            draft: namespace(false),
            require: None,
        })
        .await
        .expect("created");
    let inside = |name: &str| Write::Put {
        key: Key::new(&things(), "gone", name),
        expect: Expect::Absent,
        draft: Draft::new(&object(name, 1)),
        require: Some(key.clone()),
    };
    store.commit(inside("a")).await.expect("created");
    let mark = store.commit(Write::Put {
        key: key.clone(),
        expect: Expect::Revision(made.revision),
        draft: namespace(true),
        require: None,
    });
    let (marked, refused) = tokio::join!(mark, store.commit(inside("b")));
    marked.expect("marked");
    assert!(matches!(refused, Err(StoreError::RequirementGone)), "{refused:?}");
}

#[tokio::test]
async fn lists_are_answered_at_older_revisions_until_the_ring_forgets() {
    let store = Store::open_on(Disk::new(false), limits()).expect("opens");
    let mut history: BTreeMap<u64, BTreeMap<String, u64>> = BTreeMap::new();
    let mut now: BTreeMap<String, u64> = BTreeMap::new();
    for step in 0..50u64 {
        let name = format!("n{}", (step * 7) % 11);
        let key = Key::new(&things(), "default", &name);
        let current = store.get(&key);
        let done = match current {
            Some(current) if step % 3 == 0 => {
                now.remove(&name);
                store
                    .commit(Write::Delete {
                        key,
                        revision: current.revision,
                    })
                    .await
            }
            Some(current) => {
                now.insert(name.clone(), step);
                store.commit(put_write(&name, step, Expect::Revision(current.revision))).await
            }
            None => {
                now.insert(name.clone(), step);
                store.commit(put_write(&name, step, Expect::Absent)).await
            }
        };
        history.insert(done.expect("written").revision, now.clone());
    }
    for (revision, expected) in &history {
        let listing = store
            .list(
                &things(),
                &Page {
                    revision: Some(*revision),
                    ..Page::default()
                },
            )
            .expect("known");
        let found: BTreeMap<String, u64> = listing
            .objects
            .iter()
            .map(|object| {
                (
                    object.key.name().to_owned(),
                    object.value()["spec"]["value"].as_u64().expect("a number"),
                )
            })
            .collect();
        assert_eq!(&found, expected, "at {revision}");
        assert_eq!(listing.revision, *revision);
    }
    for step in 0..64u64 {
        store
            .commit(put_write(&format!("later-{step}"), step, Expect::Absent))
            .await
            .expect("created");
    }
    let first = *history.keys().next().expect("a revision");
    assert!(matches!(
        store.list(
            &things(),
            &Page {
                revision: Some(first),
                ..Page::default()
            }
        ),
        Err(StoreError::Expired { .. })
    ));
    assert!(matches!(store.events_after(&things(), first, 10), Err(StoreError::Expired { .. })));
    assert!(matches!(
        store.list(
            &things(),
            &Page {
                revision: Some(u64::MAX),
                ..Page::default()
            }
        ),
        Err(StoreError::Future { .. })
    ));
}

#[tokio::test]
async fn namespaces_and_pages_split_a_list_in_the_order_of_paths() {
    let store = Store::open_on(Disk::new(false), limits()).expect("opens");
    for (namespace, name) in [("a", "x"), ("a-b", "x"), ("a", "y"), ("b", "x")] {
        let write = Write::Put {
            key: Key::new(&things(), namespace, name),
            expect: Expect::Absent,
            draft: Draft::new(&object(name, 1)),
            require: None,
        };
        store.commit(write).await.expect("created");
    }
    let paths = |page: &Page<'_>| -> Vec<String> {
        store
            .list(&things(), page)
            .expect("lists")
            .objects
            .iter()
            .map(|object| object.key.path.to_string())
            .collect()
    };
    assert_eq!(paths(&Page::default()), ["a-b/x", "a/x", "a/y", "b/x"], "the order of etcd");
    assert_eq!(
        paths(&Page {
            namespace: "a",
            ..Page::default()
        }),
        ["a/x", "a/y"]
    );
    assert_eq!(
        paths(&Page {
            namespace: "a",
            after: Some("a/x"),
            ..Page::default()
        }),
        ["a/y"]
    );
    assert_eq!(
        paths(&Page {
            after: Some("a/x"),
            ..Page::default()
        }),
        ["a/y", "b/x"]
    );
}

/// Runs writes until the power is cut at a given backend operation, and returns what was acknowledged.
async fn write_until_cut(disk: &Disk, rounds: u64) -> BTreeMap<String, (u64, u64)> {
    let mut acknowledged = BTreeMap::new();
    let Ok(store) = Store::open_on(disk.clone(), limits()) else {
        return acknowledged;
    };
    for round in 0..rounds {
        let name = format!("n{}", round % 5);
        let expect = store
            .get(&Key::new(&things(), "default", &name))
            .map_or(Expect::Absent, |object| Expect::Revision(object.revision));
        match store.commit(put_write(&name, round, expect)).await {
            Ok(object) => acknowledged.insert(name, (object.revision, round)),
            Err(_) => break,
        };
    }
    // The cut comes while the store is open: nothing may be flushed by closing it.
    disk.platter.lock().unwrap_or_else(PoisonError::into_inner).cut = true;
    acknowledged
}

fn survives(image: Vec<u8>, acknowledged: &BTreeMap<String, (u64, u64)>) -> Result<(), String> {
    let store = Store::open_on(Disk::on(image, false), limits()).map_err(|error| error.to_string())?;
    for (name, (revision, value)) in acknowledged {
        let found = store
            .get(&Key::new(&things(), "default", name))
            .ok_or_else(|| format!("{name} is lost"))?;
        if found.revision < *revision {
            return Err(format!("{name} is at {} and was acknowledged at {revision}", found.revision));
        }
        let stored = found.value()["spec"]["value"].as_u64();
        if found.revision == *revision && stored != Some(*value) {
            return Err(format!("{name} holds {stored:?}, not {value}"));
        }
        if store.revision() < *revision {
            return Err(format!("revision {} would be given again, {revision} was seen", store.revision()));
        }
    }
    Ok(())
}

#[tokio::test]
async fn acknowledged_writes_survive_power_cuts_that_drop_reorder_and_tear() {
    for cut in 1..=24u64 {
        let disk = Disk::new(false);
        let acknowledged = write_until_cut(&disk, cut).await;
        assert!(!acknowledged.is_empty());
        for seed in 1..=12u64 {
            let image = disk.platter.lock().unwrap_or_else(PoisonError::into_inner).after_cut(seed * 7919);
            if let Err(lost) = survives(image, &acknowledged) {
                panic!("cut after {cut} writes, seed {seed}: {lost}");
            }
        }
    }
}

#[tokio::test]
async fn the_power_cut_test_finds_a_disk_that_does_not_sync() {
    let disk = Disk::new(true);
    let acknowledged = write_until_cut(&disk, 12).await;
    assert!(!acknowledged.is_empty());
    let lost = (1..=12u64).any(|seed| {
        let image = disk.platter.lock().unwrap_or_else(PoisonError::into_inner).after_cut(seed * 7919);
        survives(image, &acknowledged).is_err()
    });
    assert!(lost, "without syncs something must be lost, or the test above proves nothing");
}

#[tokio::test]
async fn a_failed_commit_publishes_nothing_and_stops_the_store() {
    let disk = Disk::new(false);
    let store = Store::open_on(disk.clone(), limits()).expect("opens");
    store.commit(put_write("a", 1, Expect::Absent)).await.expect("created");
    let before = store.revision();
    disk.platter.lock().unwrap_or_else(PoisonError::into_inner).cut = true;
    assert!(matches!(
        store.commit(put_write("b", 1, Expect::Absent)).await,
        Err(StoreError::Failed(_))
    ));
    assert!(!store.healthy());
    assert_eq!(store.revision(), before);
    assert!(store.get(&Key::new(&things(), "default", "b")).is_none());
    assert!(
        store.commit(put_write("c", 1, Expect::Absent)).await.is_err(),
        "no write after a failed one"
    );
}

#[tokio::test]
async fn a_reopened_store_goes_on_with_new_revisions() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("objects.redb");
    let store = Store::open(&path, limits()).expect("opens");
    let first = store.commit(put_write("a", 1, Expect::Absent)).await.expect("created");
    let gone = store
        .commit(Write::Delete {
            key: first.key.clone(),
            revision: first.revision,
        })
        .await
        .expect("deleted");
    store.close().await;
    let store = Store::open(&path, limits()).expect("opens again");
    assert_eq!(store.revision(), gone.revision);
    let next = store.commit(put_write("a", 2, Expect::Absent)).await.expect("created");
    assert!(next.revision > gone.revision);
    assert!(
        matches!(store.events_after(&things(), first.revision, 10), Err(StoreError::Expired { .. })),
        "older events are gone: list again"
    );
    store.close().await;
}

#[test]
fn a_draft_never_takes_the_revision_from_user_text() {
    let tricky = json!({
        "metadata": { "name": "a", "resourceVersion": "999", "annotations": { "x": "\"resourceVersion\":\"" } },
        "spec": { "resourceVersion": "7" },
    });
    let sealed = Draft::new(&tricky).seal(Key::new(&things(), "", "a"), 42);
    let value = sealed.value();
    assert_eq!(value["metadata"]["resourceVersion"], "42");
    assert_eq!(value["spec"]["resourceVersion"], "7");
    assert_eq!(at_revision(&sealed, 12345).value()["metadata"]["resourceVersion"], "12345");
    assert_eq!(at_revision(&at_revision(&sealed, 12345), 6).value(), {
        let mut value = value;
        value["metadata"]["resourceVersion"] = json!("6");
        value
    });
}
