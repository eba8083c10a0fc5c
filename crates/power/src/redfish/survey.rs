//! The way through a machine's documents: which are asked for, in what order, and when it is enough.
//!
//! Some servers have a hundred documents of this kind, and a BMC needs a second for one. So it is done in parts of a few seconds ([`PART`]), between which others have their turn; where a service says that
//! it sends what a collection leads to, it is asked to. What cannot be read is named and left out; where a service falls silent, so is the rest; only one that does not answer at
//! all, or does not know us, ends it without a result.
//!
//! Nothing a service says is trusted to be small: requests, links, pages and bytes in all are bounded, and where a bound is met what was found so far is what there is.

use std::{collections::VecDeque, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    http::Conversation,
    inventory::{self, Sum},
    quirks::Quirk,
    reader::{self, Link},
};
use crate::{
    fault::{Fault, quoted},
    inventory::{Depth, Inventory},
};

/// After this time a part ends with the request that is under way.
const PART: Duration = Duration::from_secs(2);
/// One whose last part was before that is begun anew.
pub(super) const TOO_OLD: Duration = Duration::from_secs(600);
/// Requests in all.
const REQUESTS: usize = 400;
/// Bytes of all documents, as JSON.
const BYTES: usize = 24 << 20;
/// Members that are followed of one collection.
const MEMBERS: usize = 128;
/// Pages of one collection.
const PAGES: u8 = 16;
/// Documents that wait to be read.
const WAITING: usize = 1024;
/// After so many in a row without an answer the rest is not asked for.
const UNANSWERED: u8 = 3;
/// How often a service that is busy is asked again for one document.
const BUSY: u8 = 2;

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Processor,
    Module,
    /// EthernetInterface or NetworkDeviceFunction.
    Interface,
    /// NetworkInterface, or the NetworkAdapter behind it.
    Adapter,
    Storage,
    Drive,
    SimpleStorage,
    /// HPE's SmartStorage, which leads to controllers.
    SmartStorage,
    /// HPE's array controller, which leads to drives.
    ArrayController,
}

/// What is to be done next.
#[derive(Debug, Clone)]
enum Step {
    /// Read a collection's page, so many pages after the first.
    Collection(Kind, Link, u8),
    /// Read a document.
    Document(Kind, Link),
    /// If no interface was found: look where adapters are.
    Adapters(Link),
    /// If no drive was found: look where they were before the standard had any.
    OlderDrives(Kind, Link),
}

/// A reading that is under way.
#[derive(Debug)]
pub(super) struct Walk {
    pub depth: Depth,
    /// When its last part ended.
    pub last: Instant,
    todo: VecDeque<Step>,
    /// What was being read when the time of a call was up.
    at: Option<Link>,
    expand: Option<&'static str>,
    requests: usize,
    bytes: usize,
    unanswered: u8,
    busy: u8,
    sum: Sum,
    found: Inventory,
}

/// About how long a document is as JSON.
fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(weight).sum::<usize>() + 2,
        Value::Object(members) => members.iter().map(|(name, value)| name.len() + 4 + weight(value)).sum::<usize>() + 2,
    }
}

impl Walk {
    /// Begins at a machine's own document.
    pub fn new(depth: Depth, system: &Value, root: &Value, quirk: &Quirk) -> Self {
        let mut walk = Self {
            depth,
            last: Instant::now(),
            todo: VecDeque::new(),
            at: None,
            expand: inventory::expansion(root),
            requests: 0,
            bytes: 0,
            unanswered: 0,
            busy: 0,
            sum: Sum::default(),
            found: Inventory::default(),
        };
        inventory::read_system(system, quirk, &mut walk.found);
        let mut collection = |name: &str, kind: Kind| {
            let link = reader::link(system, name);
            walk.todo.extend(link.map(|link| Step::Collection(kind, link, 0)));
        };
        collection("EthernetInterfaces", Kind::Interface);
        if depth == Depth::Everything {
            collection("Processors", Kind::Processor);
            if walk.found.memory_bytes.is_none() {
                let link = reader::link(system, "Memory");
                walk.todo.extend(link.map(|link| Step::Collection(Kind::Module, link, 0)));
            }
            let drives = reader::link(system, "Storage");
            walk.todo.extend(drives.map(|link| Step::Collection(Kind::Storage, link, 0)));
        }
        walk.todo.extend(reader::link(system, "NetworkInterfaces").map(Step::Adapters));
        if depth == Depth::Everything {
            let simple = reader::link(system, "SimpleStorage");
            walk.todo.extend(simple.map(|link| Step::OlderDrives(Kind::SimpleStorage, link)));
            let oem = reader::member(system, "Oem").unwrap_or(&Value::Null);
            let hpe = ["Hpe", "Hp"].iter().find_map(|name| reader::member(oem, name));
            let smart = hpe
                .and_then(|hpe| reader::member(hpe, "Links"))
                .and_then(|links| reader::link(links, "SmartStorage"));
            walk.todo.extend(smart.map(|link| Step::OlderDrives(Kind::SmartStorage, link)));
        }
        walk
    }

    /// Reads on until the part's time is up. Whether all is read.
    ///
    /// # Errors
    /// The service has no time, or does not know us. One that has no time goes on where it was.
    pub async fn part(&mut self, talk: &Conversation<'_>) -> Result<bool, Fault> {
        let began = Instant::now();
        if let Some(link) = self.at.take() {
            self.missing(&link, "no answer in time");
        }
        while let Some(step) = self.todo.pop_front() {
            if self.requests >= REQUESTS || self.bytes >= BYTES {
                self.todo.clear();
                self.found.note_missing(format!("the rest, after {} documents", self.requests));
                break;
            }
            let done = self.step(talk, step).await;
            self.last = Instant::now();
            done?;
            if began.elapsed() >= PART && !self.todo.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was found.
    pub fn found(mut self) -> Inventory {
        inventory::add_up(&self.sum, &mut self.found);
        self.found
    }

    fn missing(&mut self, link: &Link, why: &str) {
        self.found.note_missing(quoted(&format!("{}: {why}", link.as_str()), &[]));
    }

    async fn step(&mut self, talk: &Conversation<'_>, step: Step) -> Result<(), Fault> {
        let (kind, link) = match &step {
            Step::Adapters(_) if !self.found.interfaces.is_empty() => return Ok(()),
            Step::OlderDrives(..) if !self.found.drives.is_empty() => return Ok(()),
            Step::Collection(kind, link, _) | Step::Document(kind, link) => (*kind, link.clone()),
            Step::Adapters(link) => (Kind::Adapter, link.clone()),
            Step::OlderDrives(kind, link) => (*kind, link.clone()),
        };
        let Some(document) = self.read(talk, &step, kind, &link).await? else {
            return Ok(());
        };
        match step {
            Step::Collection(_, _, page) => self.collection(kind, &document, page),
            Step::Adapters(_) => self.collection(kind, &document, 0),
            Step::OlderDrives(Kind::SimpleStorage, _) => self.collection(kind, &document, 0),
            Step::Document(..) | Step::OlderDrives(..) => self.take(kind, &document),
        }
        Ok(())
    }

    /// A document, if it can be had.
    async fn read(&mut self, talk: &Conversation<'_>, step: &Step, kind: Kind, link: &Link) -> Result<Option<Value>, Fault> {
        // What is sent along is one level: of a collection its members, and of a storage its drives, which are most of all requests. So the storages themselves are read one by one.
        let whole = match step {
            Step::Collection(..) | Step::Adapters(_) => kind != Kind::Storage,
            Step::Document(..) | Step::OlderDrives(..) => kind == Kind::Storage,
        };
        if let Some(query) = self.expand.filter(|_| whole) {
            self.requests += 1;
            self.at = Some(link.clone());
            let asked = talk.get(&inventory::expanded(link, query)).await;
            self.at = None;
            match asked {
                Ok(document) => return Ok(Some(self.came(document.body))),
                // It says more of itself than it can do.
                Err(Fault::Refused(_) | Fault::Garbled(_)) => self.expand = None,
                Err(fault) => return self.failed(step, link, fault),
            }
        }
        self.requests += 1;
        self.at = Some(link.clone());
        let asked = talk.get(link).await;
        self.at = None;
        match asked {
            Ok(document) => Ok(Some(self.came(document.body))),
            Err(fault) => self.failed(step, link, fault),
        }
    }

    fn came(&mut self, document: Value) -> Value {
        self.bytes += weight(&document);
        (self.unanswered, self.busy) = (0, 0);
        document
    }

    fn failed(&mut self, step: &Step, link: &Link, fault: Fault) -> Result<Option<Value>, Fault> {
        match fault {
            Fault::Credentials(_) | Fault::Untrusted(_) => Err(fault),
            Fault::Busy { .. } if self.busy < BUSY => {
                self.busy += 1;
                self.todo.push_front(step.clone());
                Err(fault)
            }
            Fault::Unreachable(_) | Fault::Unanswered(_) => {
                self.unanswered += 1;
                self.missing(link, "no answer");
                if self.unanswered >= UNANSWERED {
                    // What it has said so far is more than nothing.
                    self.todo.clear();
                    self.found
                        .note_missing(format!("the rest: it did not answer {UNANSWERED} times in a row"));
                }
                Ok(None)
            }
            fault => {
                self.busy = 0;
                self.missing(link, &fault.to_string());
                Ok(None)
            }
        }
    }

    fn collection(&mut self, kind: Kind, document: &Value, page: u8) {
        self.all(kind, document, "Members");
        if let Some(next) = reader::link(document, "Members@odata.nextLink").filter(|_| page < PAGES) {
            self.todo.push_front(Step::Collection(kind, next, page + 1));
        }
    }

    /// Takes in what is there as a whole, and asks for the rest.
    fn all(&mut self, kind: Kind, document: &Value, name: &str) {
        for member in reader::list(document, name).take(MEMBERS) {
            if inventory::is_whole(member) {
                self.take(kind, member);
            } else {
                self.ask(kind, reader::link_of(member));
            }
        }
    }

    fn ask(&mut self, kind: Kind, link: Option<Link>) {
        if let Some(link) = link.filter(|_| self.todo.len() < WAITING) {
            // Before what is looked for only where nothing was found.
            let later = self
                .todo
                .iter()
                .position(|step| matches!(step, Step::Adapters(_) | Step::OlderDrives(..)));
            let place = later.unwrap_or(self.todo.len());
            self.todo.insert(place, Step::Document(kind, link));
        }
    }

    fn take(&mut self, kind: Kind, document: &Value) {
        match kind {
            Kind::Processor => inventory::read_processor(document, &mut self.sum, &mut self.found),
            Kind::Module => inventory::read_module(document, &mut self.found),
            Kind::Interface => inventory::read_interface(document, &mut self.found),
            Kind::Drive => inventory::read_drive(document, &mut self.found),
            Kind::SimpleStorage => inventory::read_simple_storage(document, &mut self.found),
            Kind::Storage => self.all(Kind::Drive, document, "Drives"),
            Kind::Adapter => {
                let links = reader::member(document, "Links").unwrap_or(&Value::Null);
                match reader::link(document, "NetworkDeviceFunctions") {
                    Some(functions) => self.todo.push_front(Step::Collection(Kind::Interface, functions, 0)),
                    None => self.ask(Kind::Adapter, reader::link(links, "NetworkAdapter")),
                }
            }
            Kind::SmartStorage => {
                let links = reader::member(document, "Links").unwrap_or(&Value::Null);
                let controllers = reader::link(links, "ArrayControllers").or_else(|| reader::link(document, "ArrayControllers"));
                self.todo
                    .extend(controllers.map(|link| Step::Collection(Kind::ArrayController, link, 0)));
            }
            Kind::ArrayController => {
                let links = reader::member(document, "Links").unwrap_or(&Value::Null);
                let drives = reader::link(links, "PhysicalDrives").or_else(|| reader::link(document, "PhysicalDrives"));
                self.todo.extend(drives.map(|link| Step::Collection(Kind::Drive, link, 0)));
            }
        }
    }
}
