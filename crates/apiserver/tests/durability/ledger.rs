//! What a server said of each object, and whether what it holds after a failure agrees. No I/O.
//!
//! Every write has a number of its own, and everything an object holds follows from its name and that number. So one look at an object says whether it is
//! whole, and which write it is.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

/// The two kinds of objects that are written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A core kind, replaced as a whole.
    Map,
    /// A custom resource, merge-patched.
    Record,
}

impl Kind {
    /// Where the collection is.
    pub fn path(self) -> &'static str {
        match self {
            Kind::Map => "/api/v1/namespaces/default/configmaps",
            Kind::Record => "/apis/durability.test/v1/namespaces/default/records",
        }
    }

    /// A whole object.
    pub fn object(self, name: &str, number: u64) -> Value {
        let content = content(name, number);
        match self {
            Kind::Map => json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": content }),
            Kind::Record => json!({ "apiVersion": "durability.test/v1", "kind": "Record", "metadata": { "name": name }, "spec": content }),
        }
    }

    fn content_of(self, object: &Value) -> &Value {
        match self {
            Kind::Map => &object["data"],
            Kind::Record => &object["spec"],
        }
    }
}

/// What a write leaves: its own number, or nothing.
pub type Left = Option<u64>;

/// Which object.
pub type Id = (Kind, String);

/// What an object holds after a write. Mostly small, sometimes many pages long.
fn content(name: &str, number: u64) -> Value {
    let hash = name
        .bytes()
        .fold(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    let length = match hash % 64 {
        0 => 100_000,
        1..=6 => 9_000,
        _ => 40 + hash % 400,
    };
    let unit = format!("{hash:016x}.");
    let fill: String = unit.chars().cycle().take(usize::try_from(length).unwrap_or(40)).collect();
    json!({ "number": number.to_string(), "fill": fill })
}

/// An object as it was read: which one, which write, at which revision. An error when it is not whole.
pub fn read(kind: Kind, object: &Value) -> Result<(Id, u64, u64), String> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let revision = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    let number = kind.content_of(object)["number"].as_str().and_then(|text| text.parse().ok());
    let (Some(revision), Some(number)) = (revision, number) else {
        return Err(format!("{kind:?} {name} has no number or no revision: {object}"));
    };
    if *kind.content_of(object) != content(&name, number) {
        return Err(format!("{kind:?} {name} is not what write {number} made of it"));
    }
    if object["metadata"]["uid"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{kind:?} {name} has no uid"));
    }
    Ok(((kind, name), number, revision))
}

/// What one client knows for sure of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    left: Left,
    /// The revision of the write that left it, or a lower bound of it.
    revision: u64,
}

/// Everything a server holds of both kinds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The revision of the lists.
    pub revision: u64,
    /// Number and revision of each object.
    pub objects: BTreeMap<Id, (u64, u64)>,
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeMap<Id, Known>,
    /// What watches and lists showed last.
    shown: BTreeMap<Id, Known>,
    flying: BTreeMap<Id, Left>,
    /// What each revision was seen to be.
    told: HashMap<u64, (Id, Left)>,
    /// The newest revision anybody saw.
    newest: u64,
    /// The revision at the last start.
    floor: u64,
    numbers: u64,
    /// Acknowledged writes.
    pub count: u64,
}

impl Ledger {
    /// Whether the object is there, as far as its only writer knows.
    pub fn present(&self, id: &Id) -> bool {
        self.acknowledged.get(id).is_some_and(|known| known.left.is_some())
    }

    /// The revision of the object's newest acknowledged write.
    pub fn revision(&self, id: &Id) -> u64 {
        self.acknowledged.get(id).map_or(0, |known| known.revision)
    }

    /// A write is sent: its number.
    pub fn begin_put(&mut self, id: &Id) -> u64 {
        self.numbers += 1;
        self.flying.insert(id.clone(), Some(self.numbers));
        self.numbers
    }

    /// A deletion is sent.
    pub fn begin_delete(&mut self, id: &Id) {
        self.flying.insert(id.clone(), None);
    }

    /// The answer came. The answer to a deletion does not say its revision.
    pub fn acknowledge(&mut self, id: &Id, revision: Option<u64>) -> Result<(), String> {
        let left = self.flying.remove(id).ok_or_else(|| format!("{id:?}: nothing was sent"))?;
        if let Some(revision) = revision {
            if revision <= self.floor {
                return Err(format!("{id:?} got revision {revision}, and the server started at {}", self.floor));
            }
            self.sight(revision, id, left)?;
        }
        let before = self.revision(id);
        if revision.is_some_and(|revision| revision <= before) {
            return Err(format!("{id:?} got revision {revision:?} after {before}"));
        }
        let revision = revision.unwrap_or(before);
        self.acknowledged.insert(id.clone(), Known { left, revision });
        self.count += 1;
        Ok(())
    }

    /// A watch or a list showed this: it may not be taken back.
    pub fn show(&mut self, revision: u64, id: &Id, left: Left) -> Result<(), String> {
        self.sight(revision, id, left)?;
        let shown = self.shown.entry(id.clone()).or_default();
        if revision >= shown.revision {
            *shown = Known { left, revision };
        }
        Ok(())
    }

    fn sight(&mut self, revision: u64, id: &Id, left: Left) -> Result<(), String> {
        self.newest = self.newest.max(revision);
        let now = (id.clone(), left);
        match self.told.get(&revision) {
            Some(before) if *before != now => Err(format!("revision {revision} was {before:?} and is {now:?}: it was given twice")),
            _ => {
                self.told.insert(revision, now);
                Ok(())
            }
        }
    }

    /// Acknowledged revisions of a kind in (after, upto], of objects that no other write is under way for.
    pub fn acknowledged_between(&self, kind: Kind, after: u64, upto: u64) -> impl Iterator<Item = (&Id, u64)> {
        self.acknowledged
            .iter()
            .filter(move |(id, known)| id.0 == kind && known.left.is_some() && known.revision > after && known.revision <= upto)
            .filter(|(id, _)| !self.flying.contains_key(*id))
            .map(|(id, known)| (id, known.revision))
    }

    /// Judges what a server holds after it was started again. Afterwards that is what is known.
    pub fn judge(&mut self, found: &Found) -> Result<(), String> {
        if found.revision < self.newest {
            return Err(format!(
                "the server is at revision {} and gave {} before",
                found.revision, self.newest
            ));
        }
        let ids: std::collections::BTreeSet<Id> = self
            .acknowledged
            .keys()
            .chain(self.flying.keys())
            .chain(self.shown.keys())
            .chain(found.objects.keys())
            .cloned()
            .collect();
        for id in ids {
            let known = self.acknowledged.get(&id).copied().unwrap_or_default();
            let have = found.objects.get(&id);
            let left = have.map(|(number, _)| *number);
            let revision = have.map_or(known.revision, |(_, revision)| *revision);
            let as_known = left == known.left && revision == known.revision;
            let as_sent = self.flying.get(&id).is_some_and(|sent| *sent == left) && (left.is_none() || revision > known.revision);
            if !as_known && !as_sent {
                return Err(format!(
                    "{id:?} is {have:?}; acknowledged was {known:?}, under way was {:?}",
                    self.flying.get(&id)
                ));
            }
            if let Some(shown) = self.shown.get(&id).filter(|shown| shown.revision > known.revision)
                && !(shown.left == left && (left.is_none() || shown.revision == revision))
                // A write under way may have come after what was shown.
                && !(left.is_some() && revision > shown.revision)
            {
                return Err(format!("{id:?} is {have:?}, and watchers were shown {shown:?}"));
            }
            if have.is_some() {
                self.sight(revision, &id, left)?;
            }
            self.acknowledged.insert(id, Known { left, revision });
        }
        self.flying.clear();
        self.newest = found.revision;
        self.floor = found.revision;
        Ok(())
    }
}

/// A history: `a` was written twice and acknowledged twice, `b` was deleted, a write of `c` is under way and was not answered.
fn history() -> (Ledger, Found) {
    let id = |name: &str| (Kind::Map, name.to_owned());
    let mut ledger = Ledger::default();
    let say = |ledger: &mut Ledger, name: &str, revision: u64| {
        let number = ledger.begin_put(&id(name));
        ledger.acknowledge(&id(name), Some(revision)).expect("in order");
        number
    };
    say(&mut ledger, "a", 5);
    let a = say(&mut ledger, "a", 6);
    say(&mut ledger, "b", 7);
    ledger.begin_delete(&id("b"));
    ledger.acknowledge(&id("b"), None).expect("in order");
    ledger.begin_put(&id("c"));
    let found = Found {
        revision: 8,
        objects: BTreeMap::from([(id("a"), (a, 6))]),
    };
    (ledger, found)
}

#[test]
fn the_judge_accepts_a_write_under_way_as_a_whole_or_not_at_all() {
    let (mut ledger, found) = history();
    assert_eq!(ledger.judge(&found), Ok(()));
    let (mut ledger, mut found) = history();
    found.revision = 9;
    found.objects.insert((Kind::Map, "c".to_owned()), (4, 9));
    assert_eq!(ledger.judge(&found), Ok(()));
    assert!(ledger.present(&(Kind::Map, "c".to_owned())), "what was found is known from then on");
}

#[test]
fn the_judge_finds_each_planted_fault() {
    type Plant = fn(&mut Ledger, &mut Found);
    let id = |name: &str| (Kind::Map, name.to_owned());
    let planted: [(&str, Plant); 7] = [
        ("an acknowledged object is gone", |_, found| found.objects.clear()),
        ("an older version is back", |_, found| {
            found.objects.insert((Kind::Map, "a".to_owned()), (1, 5));
        }),
        ("a deleted object is back", |_, found| {
            found.objects.insert((Kind::Map, "b".to_owned()), (3, 7));
        }),
        ("the revision went back", |_, found| found.revision = 6),
        ("something nobody wrote is there", |_, found| {
            found.objects.insert((Kind::Map, "d".to_owned()), (9, 8));
        }),
        ("a revision was given twice", |_, found| {
            found.objects.insert((Kind::Map, "c".to_owned()), (4, 6));
        }),
        ("what a watcher saw is gone", |ledger, _| {
            ledger.show(8, &(Kind::Map, "c".to_owned()), Some(4)).expect("new");
        }),
    ];
    for (what, plant) in planted {
        let (mut ledger, mut found) = history();
        plant(&mut ledger, &mut found);
        assert!(ledger.judge(&found).is_err(), "not found: {what}");
    }
    let (mut ledger, found) = history();
    ledger.judge(&found).expect("agrees");
    ledger.begin_put(&id("a"));
    assert!(
        ledger.acknowledge(&id("a"), Some(8)).is_err(),
        "not found: a revision that the server had reached before"
    );
}

#[test]
fn an_object_of_two_writes_is_not_whole() {
    let mut object = Kind::Map.object("a", 7);
    object["metadata"]["resourceVersion"] = "3".into();
    object["metadata"]["uid"] = "u".into();
    assert_eq!(read(Kind::Map, &object), Ok(((Kind::Map, "a".to_owned()), 7, 3)));
    object["data"]["fill"] = Kind::Map.object("a", 8)["data"]["fill"].clone();
    assert!(read(Kind::Map, &object).is_err());
}
