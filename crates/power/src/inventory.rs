//! What a machine is, as its controller says without booting it: one form for all drivers that can tell.
//!
//! Everything in it is a controller's word, cut to bounds and otherwise as it was said: what a UUID, a MAC address or a serial number is worth is judged by who reads it. Nothing here is proof of
//! anything, and what is missing was not told.

/// The longest text that is kept, in characters.
pub const LONGEST_TEXT: usize = 256;
/// The most interfaces that are kept.
pub const MOST_INTERFACES: usize = 64;
/// The most drives that are kept.
pub const MOST_DRIVES: usize = 128;
/// The most things that are named as not read.
pub const MOST_MISSING: usize = 8;

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// Which machine it is: names, numbers and interfaces.
    Identity,
    /// Processors, memory and drives too.
    Everything,
}

/// What came of one part of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    /// There is more to ask for: call again.
    More,
    /// All of it.
    Done(Box<Inventory>),
}

/// A machine, as its controller tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Who made it.
    pub vendor: Option<String>,
    /// Its model.
    pub product: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its SMBIOS UUID, in whatever form and byte order the controller has it.
    pub uuid: Option<String>,
    /// What its owner calls it.
    pub asset_tag: Option<String>,
    /// The version of its firmware.
    pub firmware: Option<String>,
    /// Its processors.
    pub processors: Processors,
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its drives. Behind a RAID controller they are no disks that a system sees.
    pub drives: Vec<Drive>,
    /// What could not be read, and why, for people.
    pub missing: Vec<String>,
}

/// The processors of a machine, all together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processors {
    /// How many.
    pub sockets: Option<u32>,
    /// The model of the first.
    pub model: Option<String>,
    /// Cores in all.
    pub cores: Option<u32>,
    /// Threads in all.
    pub threads: Option<u32>,
    /// Go's name of the architecture, where it is one that has one: `amd64`, `arm64`.
    pub architecture: Option<&'static str>,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// What the controller calls it.
    pub name: String,
    /// Its permanent MAC address, else the present one, as the controller writes it.
    pub mac: String,
    /// Whether there is a link, where it tells.
    pub link: Option<bool>,
    /// Its speed in Mbit/s.
    pub speed_mbps: Option<u32>,
}

/// How a drive keeps data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Medium {
    /// It rotates.
    Hdd,
    /// It does not.
    Ssd,
}

/// A drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drive {
    /// What the controller calls it.
    pub name: String,
    /// Its model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its World Wide Name (NAA or EUI), as the controller writes it.
    pub wwn: Option<String>,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// How it keeps data.
    pub medium: Option<Medium>,
    /// How it is attached, in lower case: `sata`, `sas`, `nvme`, `usb`, ...
    pub protocol: Option<String>,
}

impl Inventory {
    /// With every text as `change` leaves it.
    #[must_use]
    pub fn map_text(mut self, change: impl Fn(&str) -> String) -> Self {
        let own = [
            &mut self.vendor,
            &mut self.product,
            &mut self.serial,
            &mut self.uuid,
            &mut self.asset_tag,
            &mut self.firmware,
            &mut self.processors.model,
        ];
        let drives = self
            .drives
            .iter_mut()
            .flat_map(|drive| [&mut drive.model, &mut drive.serial, &mut drive.wwn, &mut drive.protocol]);
        for text in own.into_iter().chain(drives).flatten() {
            *text = change(text);
        }
        let interfaces = self
            .interfaces
            .iter_mut()
            .flat_map(|interface| [&mut interface.name, &mut interface.mac]);
        // Drives lent their other texts above.
        let names = self.drives.iter_mut().map(|drive| &mut drive.name);
        for text in interfaces.chain(names).chain(&mut self.missing) {
            *text = change(text);
        }
        self
    }

    /// Notes that something could not be read.
    pub fn note_missing(&mut self, what: String) {
        if self.missing.len() < MOST_MISSING {
            self.missing.push(what);
        }
    }
}
