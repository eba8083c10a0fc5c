//! The packed images on this replica's disk.
//!
//! ```text
//! <store>/lock                    held while a process has the store
//! <store>/packs/<hex>/manifest.json, chunks, used
//! <store>/new/<number>/           what is being made
//! ```
//!
//! Invariants:
//! * A folder below `packs` is whole: everything in it was flushed before the rename that put it there, and the name is the BLAKE3 of its manifest. What a crash left below `new` is removed at
//!   the next start, and so is a pack that is not what its name says.
//! * What lies here and what is being made are together never larger than the quota. Room is made by removing the packs that were used longest ago, never one that is in use: whoever
//!   opens the shelf says which are ([`Shelf::open`]), and one that was made or used within its grace counts as in use, because the object that names it may still be on its way.
//!
//! Whether chunks are what the manifest says is for their readers to check, as they must anyway.

use std::{
    collections::{HashMap, HashSet, hash_map},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::image::PackedImage;
use image::pack::{CHUNKS_FILE, MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest, PackDigest};

/// One that was used so recently is not removed.
pub(crate) const GRACE: Duration = Duration::from_secs(600);
/// When a pack was used is written down at most so often.
const NOTE_USE: Duration = Duration::from_secs(60);
/// Its modification time says when the pack was used.
const USED_FILE: &str = "used";

/// Why a pack could not be put on the shelf.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    /// The quota.
    #[error(
        "the image store has no room for {needed} bytes more: its quota is {quota} bytes, and everything in it is in use. Raise the quota (--image-store-size, the chart's imageStore.sizeGiB), or delete BareMetalImages that nobody needs"
    )]
    Full { needed: u64, quota: u64 },
    /// The disk.
    #[error("the image store's folder, {path}: {action} failed. See that it is there, writable and has free space")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    /// Another process.
    #[error("the image store's folder {path} is in use by another process: give each replica of netboot a folder of its own")]
    Taken { path: String },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    let path = path.display().to_string();
    move |source| ShelfError::Io { action, path, source }
}

/// One pack, open to be read.
#[derive(Debug)]
pub(crate) struct Pack {
    /// The bytes of its manifest.
    pub manifest: File,
    /// Its frames.
    pub chunks: File,
    pub manifest_bytes: u64,
    pub chunk_bytes: u64,
    /// What objects say of it.
    pub facts: PackedImage,
}

#[derive(Debug)]
struct Entry {
    pack: Arc<Pack>,
    used: SystemTime,
    noted: SystemTime,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.pack.manifest_bytes + self.pack.chunk_bytes
    }
}

#[derive(Debug, Default)]
struct Contents {
    packs: HashMap<String, Entry>,
    /// Bytes of what is being made.
    reserved: u64,
}

impl Contents {
    fn bytes(&self) -> u64 {
        self.packs.values().map(Entry::bytes).sum::<u64>() + self.reserved
    }
}

/// Which packs objects name, by their hexadecimal digits.
type InUse = dyn Fn() -> HashSet<String> + Send + Sync;

/// See the module.
pub(crate) struct Shelf {
    root: PathBuf,
    quota: u64,
    grace: Duration,
    in_use: Box<InUse>,
    contents: Mutex<Contents>,
    next: AtomicU64,
    _lock: File,
}

impl Shelf {
    /// Takes the folder, clears away what a crash left, and looks at what is there.
    pub(crate) fn open(root: &Path, quota: u64, grace: Duration, in_use: Box<InUse>) -> Result<Self, ShelfError> {
        for folder in [root.to_path_buf(), root.join("packs")] {
            fs::create_dir_all(&folder).map_err(failed("creating it", &folder))?;
        }
        let lock = root.join("lock");
        let held = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&lock)
            .map_err(failed("opening its lock", &lock))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(ShelfError::Taken {
                    path: root.display().to_string(),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed("locking", &lock)(error)),
        }
        let new = root.join("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clearing it", &new)(error)),
            _ => fs::create_dir(&new).map_err(failed("creating it", &new))?,
        }
        let shelf = Self {
            root: root.to_path_buf(),
            quota,
            grace,
            in_use,
            contents: Mutex::default(),
            next: AtomicU64::new(0),
            _lock: held,
        };
        shelf.take_stock()?;
        Ok(shelf)
    }

    fn take_stock(&self) -> Result<(), ShelfError> {
        let packs = self.root.join("packs");
        for folder in fs::read_dir(&packs).map_err(failed("listing", &packs))? {
            let path = folder.map_err(failed("listing", &packs))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            match open_pack(&path) {
                Ok(pack) if pack.facts.digest == format!("blake3:{name}") => {
                    let used = fs::metadata(path.join(USED_FILE))
                        .and_then(|m| m.modified())
                        .unwrap_or(SystemTime::UNIX_EPOCH);
                    let entry = Entry {
                        pack: Arc::new(pack),
                        used,
                        noted: used,
                    };
                    self.lock().packs.insert(name, entry);
                }
                Ok(_) => self.discard(&path, "its manifest is another one than its name says"),
                Err(error) => self.discard(&path, &error.to_string()),
            }
        }
        Ok(())
    }

    fn discard(&self, path: &Path, why: &str) {
        tracing::warn!(path = %path.display(), why, "what lies in the image store is not a whole packed image and is removed");
        if let Err(error) = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path)) {
            tracing::warn!(path = %path.display(), %error, "it could not be removed");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on the shelf and being made, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    /// How many packs there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().packs.len()
    }

    /// A pack by its hexadecimal digits, which is used by that.
    pub(crate) fn get(&self, hex: &str) -> Option<Arc<Pack>> {
        let now = SystemTime::now();
        let mut contents = self.lock();
        let entry = contents.packs.get_mut(hex)?;
        entry.used = now;
        if now.duration_since(entry.noted).is_ok_and(|ago| ago >= NOTE_USE) {
            entry.noted = now;
            self.note_use(hex, now);
        }
        Some(entry.pack.clone())
    }

    /// The order of removal survives a restart; a note that cannot be written costs no more than that.
    fn note_use(&self, hex: &str, now: SystemTime) {
        let path = self.root.join("packs").join(hex).join(USED_FILE);
        if let Err(error) = File::options().write(true).open(&path).and_then(|f| f.set_modified(now)) {
            tracing::debug!(path = %path.display(), %error, "when a pack was used could not be noted");
        }
    }

    /// What objects say of a pack. Not a use.
    pub(crate) fn facts(&self, hex: &str) -> Option<PackedImage> {
        self.lock().packs.get(hex).map(|e| e.pack.facts.clone())
    }

    /// A pack that was made of these bytes.
    pub(crate) fn made_of(&self, source_digest: &str) -> Option<PackedImage> {
        let contents = self.lock();
        let mut found: Vec<_> = contents
            .packs
            .values()
            .filter(|e| e.pack.facts.source_digest == source_digest)
            .collect();
        // Of several (a newer packer makes another one) always the same.
        found.sort_by(|a, b| a.pack.facts.digest.cmp(&b.pack.facts.digest));
        found.first().map(|e| e.pack.facts.clone())
    }

    /// A folder in which a pack can be made.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Draft, ShelfError> {
        let path = self.root.join("new").join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path).map_err(failed("creating it", &path))?;
        Ok(Draft {
            shelf: Arc::clone(self),
            path,
            reserved: 0,
        })
    }

    /// Makes room for `more` bytes, and takes it.
    fn reserve(&self, more: u64) -> Result<(), ShelfError> {
        let mut removed = Vec::new();
        let judged = {
            let mut contents = self.lock();
            let mut kept: Option<HashSet<String>> = None;
            loop {
                if contents.bytes().saturating_add(more) <= self.quota {
                    contents.reserved += more;
                    break Ok(());
                }
                let kept = kept.get_or_insert_with(|| (self.in_use)());
                let now = SystemTime::now();
                let old = |e: &Entry| now.duration_since(e.used).is_ok_and(|ago| ago >= self.grace);
                let oldest = contents
                    .packs
                    .iter()
                    .filter(|(hex, entry)| !kept.contains(*hex) && old(entry))
                    .min_by_key(|(_, entry)| entry.used)
                    .map(|(hex, _)| hex.clone());
                let Some(hex) = oldest else {
                    break Err(ShelfError::Full {
                        needed: more,
                        quota: self.quota,
                    });
                };
                contents.packs.remove(&hex);
                removed.push(hex);
            }
        };
        for hex in removed {
            self.remove(&hex)?;
        }
        judged
    }

    /// Takes a pack away that is not in the table any more. Whoever reads it reads on: its files stay open.
    fn remove(&self, hex: &str) -> Result<(), ShelfError> {
        let path = self.root.join("packs").join(hex);
        let away = self
            .root
            .join("new")
            .join(format!("old-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        tracing::info!(
            pack = hex,
            "removed from the image store to make room: nothing names it, and of such it was used longest ago"
        );
        // In one step, so that a crash leaves it whole or gone.
        fs::rename(&path, &away).map_err(failed("removing a pack from it", &path))?;
        fs::remove_dir_all(&away).map_err(failed("removing a pack from it", &away))
    }
}

/// A pack that is being made. Dropped without [`Draft::commit`], nothing is left of it.
pub(crate) struct Draft {
    shelf: Arc<Shelf>,
    path: PathBuf,
    reserved: u64,
}

impl Draft {
    /// A folder for what is needed meanwhile.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where to make it: a folder of manifest and chunks, which is not there yet.
    pub(crate) fn pack(&self) -> PathBuf {
        self.path.join("pack")
    }

    /// So many bytes will lie in it in all. To be asked before they are written.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), ShelfError> {
        let more = bytes.saturating_sub(self.reserved);
        if more > 0 {
            self.shelf.reserve(more)?;
            self.reserved += more;
        }
        Ok(())
    }

    /// Puts it on the shelf, flushed, under the digest of its manifest.
    pub(crate) fn commit(self) -> Result<PackedImage, ShelfError> {
        let path = &self.pack();
        File::create(path.join(USED_FILE)).map_err(failed("writing", path))?;
        for file in [MANIFEST_FILE, CHUNKS_FILE, USED_FILE] {
            let file = path.join(file);
            File::open(&file).and_then(|f| f.sync_all()).map_err(failed("flushing", &file))?;
        }
        sync_folder(path)?;
        let pack = open_pack(path).map_err(failed("reading what was just written to it", path))?;
        let facts = pack.facts.clone();
        let hex = facts.digest.trim_start_matches("blake3:").to_owned();
        let packs = self.shelf.root.join("packs");
        let mut contents = self.shelf.lock();
        // The same from elsewhere: one is enough.
        if let hash_map::Entry::Vacant(place) = contents.packs.entry(hex) {
            let target = packs.join(place.key());
            fs::rename(path, &target).map_err(failed("moving a pack into it", &target))?;
            sync_folder(&packs)?;
            let now = SystemTime::now();
            let entry = Entry {
                pack: Arc::new(pack),
                used: now,
                noted: now,
            };
            place.insert(entry);
        }
        Ok(facts)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        {
            let mut contents = self.shelf.lock();
            contents.reserved = contents.reserved.saturating_sub(self.reserved);
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "what is left of a preparation could not be removed; the next start does it");
            }
            _ => {}
        }
    }
}

fn sync_folder(path: &Path) -> Result<(), ShelfError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(failed("flushing", path))
}

/// Opens a pack and holds its manifest against itself, and the length of its chunks against the manifest.
fn open_pack(folder: &Path) -> io::Result<Pack> {
    let mut manifest = File::open(folder.join(MANIFEST_FILE))?;
    let chunks = File::open(folder.join(CHUNKS_FILE))?;
    let mut bytes = Vec::new();
    (&mut manifest).take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    let parsed = Manifest::parse(&bytes).map_err(io::Error::other)?;
    let chunk_bytes = chunks.metadata()?.len();
    if chunk_bytes != parsed.stored_bytes() {
        return Err(io::Error::other(format!(
            "its chunks are {chunk_bytes} bytes, the manifest says {}",
            parsed.stored_bytes()
        )));
    }
    Ok(Pack {
        manifest,
        chunks,
        manifest_bytes: bytes.len() as u64,
        chunk_bytes,
        facts: PackedImage {
            digest: PackDigest::of(&bytes).to_string(),
            source_digest: parsed.source().digest.clone(),
            disk_bytes: parsed.disk_bytes(),
            stored_bytes: parsed.stored_bytes() + bytes.len() as u64,
            sector_bytes: parsed.sector_bytes().unwrap_or(0),
        },
    })
}

#[cfg(test)]
mod tests {
    use image::{Digest, MemorySource, pack::PackOptions};

    use super::*;

    /// A disk that nothing shortens.
    fn noise(seed: u32) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..100 * 1024).map(|_| next()).collect()
    }

    fn pack(shelf: &Arc<Shelf>, seed: u32) -> Result<PackedImage, ShelfError> {
        let disk = noise(seed);
        let mut draft = shelf.begin()?;
        let source = Box::new(MemorySource::new("memory", disk.clone()));
        let image = image::open(source, &Digest::sha256_of(&disk), None, &image::pack::packing_limit()).unwrap();
        let go = &mut |_| std::ops::ControlFlow::Continue(());
        let packed = image::pack::pack(image, &draft.pack(), &PackOptions::default(), go).unwrap();
        draft.reserve(packed.manifest.stored_bytes() + packed.manifest.to_bytes().len() as u64)?;
        draft.commit()
    }

    type Names = Arc<Mutex<HashSet<String>>>;

    fn open(root: &Path, quota: u64) -> (Arc<Shelf>, Names) {
        let names = Names::default();
        let used = names.clone();
        let shelf = Shelf::open(root, quota, Duration::ZERO, Box::new(move || used.lock().unwrap().clone())).unwrap();
        (Arc::new(shelf), names)
    }

    fn hex(facts: &PackedImage) -> String {
        facts.digest.trim_start_matches("blake3:").to_owned()
    }

    #[test]
    fn what_nothing_names_goes_first_and_what_is_named_stays_whatever_the_quota() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, names) = open(folder.path(), 350 * 1024);
        let packs: Vec<_> = (1..=3).map(|seed| hex(&pack(&shelf, seed).unwrap())).collect();
        assert_eq!(shelf.len(), 3);
        // The first one is read, so that the second is the one that was used longest ago.
        assert!(shelf.get(&packs[0]).is_some());
        let read_on = shelf.get(&packs[1]).unwrap();
        assert!(shelf.get(&packs[0]).is_some() && shelf.get(&packs[2]).is_some());
        names.lock().unwrap().insert(packs[0].clone());
        let fourth = hex(&pack(&shelf, 4).unwrap());
        assert!(shelf.facts(&packs[1]).is_none(), "used longest ago");
        assert!(!folder.path().join("packs").join(&packs[1]).exists());
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&read_on.chunks, &mut byte, 0).expect("whoever reads it reads on");
        names.lock().unwrap().extend([packs[2].clone(), fourth.clone()]);
        let error = pack(&shelf, 5).unwrap_err();
        assert!(matches!(error, ShelfError::Full { .. }), "{error}");
        assert_eq!(shelf.len(), 3);
        assert!([&packs[0], &packs[2], &fourth].iter().all(|p| shelf.facts(p).is_some()));
        assert!(shelf.bytes() <= 350 * 1024, "what was not finished takes no room");
    }

    #[test]
    fn a_start_keeps_what_is_whole_and_removes_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let kept = {
            let (shelf, _) = open(folder.path(), 1 << 30);
            let kept = [1, 2, 3, 4].map(|seed| pack(&shelf, seed).unwrap());
            // As a process leaves it that dies.
            fs::create_dir(folder.path().join("new/17")).unwrap();
            fs::write(folder.path().join("new/17/half"), "half").unwrap();
            kept
        };
        let packs = folder.path().join("packs");
        let chunks = packs.join(hex(&kept[1])).join(CHUNKS_FILE);
        File::options().write(true).open(chunks).unwrap().set_len(10).unwrap();
        let manifest = packs.join(hex(&kept[2])).join(MANIFEST_FILE);
        fs::copy(packs.join(hex(&kept[0])).join(MANIFEST_FILE), manifest).unwrap();
        fs::remove_file(packs.join(hex(&kept[3])).join(MANIFEST_FILE)).unwrap();
        fs::write(packs.join("stray"), "stray").unwrap();
        let (shelf, _) = open(folder.path(), 1 << 30);
        assert_eq!(shelf.len(), 1);
        assert_eq!(shelf.facts(&hex(&kept[0])).as_ref(), Some(&kept[0]));
        assert_eq!(shelf.made_of(&kept[0].source_digest).as_ref(), Some(&kept[0]));
        assert_eq!(fs::read_dir(&packs).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_belongs_to_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let (_shelf, _) = open(folder.path(), 1 << 30);
        let second = Shelf::open(folder.path(), 1 << 30, Duration::ZERO, Box::new(HashSet::new));
        assert!(matches!(second, Err(ShelfError::Taken { .. })));
    }

    #[test]
    fn the_same_twice_is_kept_once() {
        let folder = tempfile::tempdir().unwrap();
        let (shelf, _) = open(folder.path(), 1 << 30);
        let first = pack(&shelf, 1).unwrap();
        let bytes = shelf.bytes();
        assert_eq!(pack(&shelf, 1).unwrap(), first);
        assert_eq!((shelf.len(), shelf.bytes()), (1, bytes));
    }
}
