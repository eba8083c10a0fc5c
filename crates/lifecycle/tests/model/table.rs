//! Real API objects behind small numbers. A state of the model holds numbers; the decisions under test get the objects. Equal objects have equal
//! numbers, so that states compare and hash in nanoseconds, and what is computed of an object is computed once per thread ([`Memo`]).

use std::{
    any::Any,
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::{Arc, LazyLock, RwLock},
    thread::LocalKey,
};

use serde::{Serialize, de::DeserializeOwned};

/// The number of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Id(pub u32);

/// Multiply and rotate: the keys are small numbers, and nobody attacks.
#[derive(Clone, Copy, Default)]
pub struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 31;
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

/// A map for small keys.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fast>>;

/// Answers that one thread remembers.
pub type Memo<K, V> = RefCell<FastMap<K, V>>;

/// What `make` says of `key`, asked once.
pub fn remembered<K: Hash + Eq + Copy + 'static, V: Copy + 'static>(
    memo: &'static LocalKey<Memo<K, V>>,
    key: K,
    make: impl FnOnce() -> V,
) -> V {
    if let Some(found) = memo.with_borrow(|t| t.get(&key).copied()) {
        return found;
    }
    let made = make();
    memo.with_borrow_mut(|t| t.insert(key, made));
    made
}

#[derive(Default)]
struct Table {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    objects: Vec<Arc<dyn Any + Send + Sync>>,
}

static TABLE: LazyLock<RwLock<Table>> = LazyLock::new(RwLock::default);

/// The number of an object.
pub fn number<T: Serialize + Send + Sync + 'static>(object: T) -> Id {
    let text = format!(
        "{} {}",
        std::any::type_name::<T>(),
        serde_json::to_string(&object).expect("API objects are JSON")
    );
    if let Some(found) = TABLE.read().expect("the table").numbers.get(text.as_str()) {
        return Id(*found);
    }
    let mut table = TABLE.write().expect("the table");
    if let Some(found) = table.numbers.get(text.as_str()) {
        return Id(*found);
    }
    let new = u32::try_from(table.texts.len()).expect("fewer than 2^32 objects");
    let text: Arc<str> = text.into();
    table.texts.push(text.clone());
    table.objects.push(Arc::new(object));
    table.numbers.insert(text, new);
    Id(new)
}

/// How many distinct objects there are.
pub fn count() -> usize {
    TABLE.read().expect("the table").texts.len()
}

/// The object of a number.
pub fn object<T: Send + Sync + 'static>(id: Id) -> Arc<T> {
    let found = TABLE.read().expect("the table").objects[id.0 as usize].clone();
    found.downcast().expect("the type it was stored with")
}

thread_local! {
    static RENAMED: Memo<(Id, bool, bool), Id> = RefCell::default();
    static SALTS: Memo<(Id, usize), Salts> = RefCell::default();
    static RESALTED: Memo<(Id, usize, Salts), Id> = RefCell::default();
}

/// The same object with the two machines, the two instances, or both exchanged in it.
pub fn renamed<T: Serialize + DeserializeOwned + Send + Sync + 'static>(id: Id, machines: bool, instances: bool) -> Id {
    remembered(&RENAMED, (id, machines, instances), || {
        let text = TABLE.read().expect("the table").texts[id.0 as usize].clone();
        let (_, json) = text.split_once(' ').expect("type and JSON");
        let mut json = json.to_owned();
        let mut swap = |a: &str, b: &str| json = json.replace(a, "\u{1}").replace(b, a).replace('\u{1}', b);
        if machines {
            swap("m-0", "m-1");
            swap("DISK0000", "DISK0001");
            swap("session-0-", "session-1-");
        }
        if instances {
            swap("u-0", "u-1");
            swap("i-0", "i-1");
        }
        number(serde_json::from_str::<T>(&json).expect("renaming keeps the form"))
    })
}

/// Numbers of orders, in four bits each; 15 stands for none.
pub type Salts = u64;

const NO_SALT: u64 = 15;

/// The order numbers of a machine that an object mentions, as they come.
pub fn salts(id: Id, m: usize) -> Salts {
    remembered(&SALTS, (id, m), || {
        let text = TABLE.read().expect("the table").texts[id.0 as usize].clone();
        let mut found: Salts = Salts::MAX;
        let mut shift = 0;
        for (at, prefix) in text.match_indices(&salt_prefix(m)) {
            let digits = text.get(at + prefix.len()..at + prefix.len() + 8).unwrap_or_default();
            let salt = u64::from_str_radix(digits, 16).unwrap_or(NO_SALT);
            if salt < NO_SALT && listed(found).all(|s| s != salt) {
                found = found & !(NO_SALT << shift) | salt << shift;
                shift += 4;
            }
        }
        found
    })
}

fn salt_prefix(m: usize) -> String {
    format!("\"m-{m}-1-")
}

/// The numbers one by one.
pub fn listed(salts: Salts) -> impl Iterator<Item = u64> {
    (0..16).map(move |at| salts >> (4 * at) & NO_SALT).take_while(|s| *s != NO_SALT)
}

/// The same object with the orders of a machine numbered anew; four bits of `numbers` for each old number.
pub fn resalted<T: DeserializeOwned + Serialize + Send + Sync + 'static>(id: Id, m: usize, numbers: Salts) -> Id {
    let own = salts(id, m);
    let mut relevant = 0;
    let mut changes = false;
    for salt in listed(own) {
        let new = numbers >> (4 * salt) & NO_SALT;
        changes |= new != salt;
        relevant |= new << (4 * salt);
    }
    if !changes {
        return id;
    }
    remembered(&RESALTED, (id, m, relevant), || {
        let text = TABLE.read().expect("the table").texts[id.0 as usize].clone();
        let (_, json) = text.split_once(' ').expect("type and JSON");
        let prefix = salt_prefix(m);
        let mut made = String::with_capacity(json.len());
        let mut parts = json.split(&prefix);
        made.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let old = u64::from_str_radix(part.get(..8).unwrap_or_default(), 16).unwrap_or(NO_SALT);
            let new = if old < NO_SALT { numbers >> (4 * old) & NO_SALT } else { old };
            made.push_str(&format!("{prefix}{new:08x}"));
            made.push_str(part.get(8..).unwrap_or_default());
        }
        number(serde_json::from_str::<T>(&made).expect("renumbering keeps the form"))
    })
}
