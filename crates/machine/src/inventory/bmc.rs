//! The inventory's view of the BMC: what SMBIOS tells, and what the controller itself says within [`PATIENCE`].
//!
//! It is asked in a thread of its own, which is left alone when its time is over: neither a controller nor a driver that hangs keeps a machine from being registered. What is missing then is
//! said in words.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use agent_protocol::{bmc::Bmc, identity::SystemUuid};

use super::{Options, smbios::Tables, tree::Tree};
use crate::{
    bmc::{BmcError, KernelInterface, device},
    text::clean,
};

/// How long it is waited for, in all.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long of it the kernel's driver is given to find the controller. A board without one may have a table that names one.
const DRIVER: Duration = Duration::from_millis(1500);
const LOOK: Duration = Duration::from_millis(50);

/// A controller that was asked.
pub(super) struct Asked {
    known: Bmc,
    answer: Option<Receiver<Bmc>>,
    deadline: Instant,
}

/// Begins to ask, where anything says that there is a controller.
pub(super) fn begin(tree: &Tree, tables: &Tables, options: &Options) -> Option<Asked> {
    let seen_by_kernel = !tree.list("sys/class/ipmi").is_empty() || tree.exists("dev/ipmi0");
    let ipmi = tables.ipmi.is_some() || seen_by_kernel;
    let interface = match (ipmi, &tables.redfish) {
        (true, _) => "ipmi",
        (false, Some(_)) => "redfish-host-interface",
        (false, None) => return None,
    };
    let version = tables.ipmi.and_then(|i| i.version);
    let known = Bmc {
        interface: interface.to_owned(),
        system_interface: tables.ipmi.and_then(|i| i.kind).map(str::to_owned),
        ipmi_version: version.map(|(major, minor)| format!("{major}.{minor}")),
        redfish: tables.redfish.clone(),
        ..Bmc::default()
    };
    let deadline = Instant::now() + PATIENCE;
    let answer = (ipmi && options.ask_kernel)
        .then(|| ask(known.clone(), tables.system.uuid, deadline))
        .flatten();
    Some(Asked { known, answer, deadline })
}

/// Asks in a thread. Nothing where the system gives none.
fn ask(mut known: Bmc, system: Option<SystemUuid>, deadline: Instant) -> Option<Receiver<Bmc>> {
    let (sender, answer) = sync_channel(1);
    let ask = move || {
        if let Err(error) = read(&mut known, system, deadline) {
            known.problem = clean(&error.to_string());
        }
        if sender.send(known).is_err() {
            tracing::debug!("the BMC answered after the inventory was sent");
        }
    };
    let started = thread::Builder::new().name("bmc".to_owned()).spawn(ask);
    started.ok().map(|_| answer)
}

fn read(known: &mut Bmc, system: Option<SystemUuid>, deadline: Instant) -> Result<(), BmcError> {
    let until = Instant::now() + DRIVER;
    while !std::path::Path::new(device::PATH).exists() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    let mut interface = KernelInterface::open()?;
    // Its end is before that of those who wait for it, so that what was read counts.
    let deadline = deadline.checked_sub(LOOK * 2).unwrap_or(deadline);
    crate::bmc::read(&mut interface, deadline, system, known)
}

impl Asked {
    /// What is known when it has answered, or its time is over.
    pub(super) fn end(self) -> Option<Bmc> {
        let Self {
            mut known,
            answer,
            deadline,
        } = self;
        let Some(answer) = answer else { return Some(known) };
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(found) => Some(found),
            Err(_) => {
                known.problem = Some(format!(
                    "the kernel's IPMI driver did not answer within {} s; cut the machine's power where it stays like that",
                    PATIENCE.as_secs()
                ));
                Some(known)
            }
        }
    }
}
