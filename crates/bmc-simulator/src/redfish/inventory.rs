//! What the machine is: processors, interfaces, drives, as a profile has them. Every document is made when it is asked for, of the machine's numbers: thousands of machines cost nothing.
//!
//! DSP0268: Processor, EthernetInterface, NetworkInterface, NetworkDeviceFunction, Storage, Drive, SimpleStorage; DSP0266, 7.3: `$expand`. SmartStorage is HPE's own.

use serde_json::{Value, json};

use super::{
    ROOT,
    documents::{collection, link},
};
use crate::{
    bmc::Bmc,
    profile::{Drives, Expands},
};

/// Processors of a machine, their cores and threads.
pub const SOCKETS: u32 = 2;
/// Cores of a processor.
pub const CORES: u32 = 16;
/// Threads of a processor.
pub const THREADS: u32 = 32;
/// Memory of a machine, in GiB.
pub const MEMORY_GIB: u64 = 64;
/// Network interfaces of a machine.
pub const INTERFACES: usize = 2;
/// Bytes of each of the first two drives, which are the fast ones.
pub const SMALL_DRIVE: u64 = 480_103_981_056;
/// Bytes of each further drive.
pub const LARGE_DRIVE: u64 = 8_001_563_222_016;

impl Bmc {
    /// The serial number of a machine, as SMBIOS has it.
    #[must_use]
    pub fn serial(&self, system: usize) -> String {
        format!("SIM{:06}{system}", self.index)
    }

    /// The MAC address of one of a machine's interfaces.
    #[must_use]
    pub fn mac(&self, system: usize, interface: usize) -> String {
        let index = self.index;
        format!(
            "06:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
            index >> 16 & 0xff,
            index >> 8 & 0xff,
            index & 0xff,
            system & 0xff,
            interface & 0xff
        )
    }

    /// What it can send along.
    pub(super) fn features(&self) -> Option<Value> {
        let levels = match self.profile.inventory.expands {
            Expands::Nothing => return None,
            Expands::Below => false,
            Expands::Levels => true,
        };
        Some(json!({"ExpandQuery": {"ExpandAll": levels, "Levels": levels, "Links": levels, "NoLinks": true}, "SelectQuery": true}))
    }

    /// Puts into a machine's document what it is, and where more is told.
    pub(super) fn describe(&self, system: usize, at: &str, document: &mut Value) {
        let profile = &self.profile.inventory;
        let mut processors = json!({"Count": SOCKETS, "Status": {"Health": "OK"}});
        for member in &profile.summary {
            processors[member.as_str()] = match member.as_str() {
                "Model" => json!("Simulated CPU @ 2.00GHz"),
                "CoreCount" => json!(SOCKETS * CORES),
                "LogicalProcessorCount" => json!(SOCKETS * THREADS),
                _ => continue,
            };
        }
        document["ProcessorSummary"] = processors;
        document["MemorySummary"]["TotalSystemMemoryGiB"] = MEMORY_GIB.into();
        if let Some(model) = &profile.model {
            document["Model"] = model.as_str().into();
        }
        // What stands in the member of that name where the serial number is elsewhere is a number of the board.
        document["SerialNumber"] = format!("BOARD{:06}{system}", self.index).into();
        match &profile.serial {
            Some(member) => document[member.as_str()] = self.serial(system).into(),
            None => document["SerialNumber"] = Value::Null,
        }
        let mut lead = |there: bool, name: &str| {
            if there {
                document[name] = link(&format!("{at}/{name}"));
            }
        };
        lead(profile.processors, "Processors");
        lead(profile.interfaces, "EthernetInterfaces");
        lead(profile.adapters, "NetworkInterfaces");
        lead(matches!(profile.drives, Drives::Storage | Drives::SmartStorage), "Storage");
        lead(profile.drives == Drives::SimpleStorage, "SimpleStorage");
        if profile.drives == Drives::SmartStorage {
            document["Oem"] = json!({"Hpe": {"Links": {"SmartStorage": link(&format!("{at}/SmartStorage"))}}});
        }
    }

    /// A document below a machine's, with what the query wants along with it.
    pub(super) fn part(&self, system: usize, rest: &[&str], query: &str) -> Option<Value> {
        let document = self.below(system, rest)?;
        let wanted = query.split('&').any(|part| part.starts_with("$expand=."));
        if !wanted || self.profile.inventory.expands == Expands::Nothing {
            return Some(document);
        }
        Some(self.expanded(system, document))
    }

    /// Puts in the place of links below a document what they lead to.
    fn expanded(&self, system: usize, mut document: Value) -> Value {
        let at = format!("{ROOT}/Systems/{}/", self.system_id(system));
        for name in ["Members", "Drives"] {
            let Some(members) = document.get_mut(name).and_then(Value::as_array_mut) else {
                continue;
            };
            for member in members {
                let path = member["@odata.id"]
                    .as_str()
                    .and_then(|path| path.strip_prefix(&at))
                    .unwrap_or_default();
                let rest: Vec<&str> = path.split('/').collect();
                if let Some(whole) = self.below(system, &rest) {
                    *member = whole;
                }
            }
        }
        document
    }

    fn below(&self, system: usize, rest: &[&str]) -> Option<Value> {
        let profile = &self.profile.inventory;
        let at = format!("/Systems/{}", self.system_id(system));
        let path = format!("{at}/{}", rest.join("/"));
        let numbered = |kind: &str, count: usize| collection(kind, &path, (1..=count).map(|number| number.to_string()));
        let number = |text: &str, most: usize| text.parse().ok().filter(|number| (1..=most).contains(number));
        let drives = profile.drive_count;
        match rest {
            ["Processors"] if profile.processors => Some(numbered("Processor", SOCKETS as usize)),
            ["Processors", own] if profile.processors => {
                number(own, SOCKETS as usize)?;
                Some(json!({
                    "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#Processor.v1_4_0.Processor", "Id": own, "Name": format!("Processor {own}"),
                    "ProcessorType": "CPU", "ProcessorArchitecture": "x86", "InstructionSet": "x86-64", "Model": "Simulated CPU @ 2.00GHz",
                    "TotalCores": CORES, "TotalThreads": THREADS, "Status": {"State": "Enabled", "Health": "OK"},
                }))
            }
            ["EthernetInterfaces"] if profile.interfaces => Some(numbered("EthernetInterface", INTERFACES)),
            ["EthernetInterfaces", own] if profile.interfaces => {
                let mac = self.mac(system, number(own, INTERFACES)? - 1);
                Some(json!({
                    "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#EthernetInterface.v1_4_1.EthernetInterface", "Id": own, "Name": "System Ethernet Interface",
                    "PermanentMACAddress": mac, "MACAddress": mac, "LinkStatus": if *own == "1" { "LinkUp" } else { "LinkDown" }, "SpeedMbps": 25_000,
                    "Status": {"State": "Enabled", "Health": "OK"},
                }))
            }
            ["NetworkInterfaces"] if profile.adapters => Some(numbered("NetworkInterface", 1)),
            ["NetworkInterfaces", "1"] if profile.adapters => Some(json!({
                "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#NetworkInterface.v1_1_2.NetworkInterface", "Id": "1", "Name": "Network Interface",
                "NetworkDeviceFunctions": link(&format!("{path}/NetworkDeviceFunctions")),
            })),
            ["NetworkInterfaces", "1", "NetworkDeviceFunctions"] if profile.adapters => Some(numbered("NetworkDeviceFunction", INTERFACES)),
            ["NetworkInterfaces", "1", "NetworkDeviceFunctions", own] if profile.adapters => Some(json!({
                "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#NetworkDeviceFunction.v1_3_3.NetworkDeviceFunction", "Id": own, "Name": "Network Device Function",
                "NetDevFuncType": "Ethernet", "Ethernet": {"PermanentMACAddress": self.mac(system, number(own, INTERFACES)? - 1)},
            })),
            ["Storage"] => match profile.drives {
                Drives::Storage => Some(numbered("Storage", 1)),
                Drives::SmartStorage => Some(numbered("Storage", 0)),
                Drives::SimpleStorage | Drives::Nowhere => None,
            },
            ["Storage", "1"] if profile.drives == Drives::Storage => {
                let all: Vec<Value> = (1..=drives).map(|own| link(&format!("{path}/Drives/{own}"))).collect();
                Some(json!({
                    "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#Storage.v1_7_1.Storage", "Id": "1", "Name": "Storage Controller",
                    "Drives": all, "Drives@odata.count": drives, "Status": {"State": "Enabled", "Health": "OK"},
                }))
            }
            ["Storage", "1", "Drives", own] if profile.drives == Drives::Storage => {
                Some(self.drive_document(system, &path, number(own, drives)?))
            }
            ["SimpleStorage"] if profile.drives == Drives::SimpleStorage => Some(numbered("SimpleStorage", 1)),
            ["SimpleStorage", "1"] if profile.drives == Drives::SimpleStorage => {
                let device = |own: usize| json!({"Name": format!("SATA Disk {own}"), "Model": model(own), "CapacityBytes": size(own), "Status": {"State": "Enabled"}});
                Some(json!({
                    "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#SimpleStorage.v1_1_1.SimpleStorage", "Id": "1", "Name": "Simple Storage",
                    "Devices": (1..=drives).map(device).collect::<Vec<_>>(),
                }))
            }
            ["SmartStorage", rest @ ..] if profile.drives == Drives::SmartStorage => self.smart_storage(system, &path, rest),
            _ => None,
        }
    }

    fn drive_document(&self, system: usize, path: &str, own: usize) -> Value {
        json!({
            "@odata.id": format!("{ROOT}{path}"), "@odata.type": "#Drive.v1_7_0.Drive", "Id": own.to_string(), "Name": format!("Disk {own}"),
            "Model": model(own), "SerialNumber": self.drive_serial(system, own), "CapacityBytes": size(own), "MediaType": medium(own),
            "Protocol": if own <= 2 { "NVMe" } else { "SAS" }, "Status": {"State": "Enabled", "Health": "OK"},
            "Identifiers": [{"DurableNameFormat": "NAA", "DurableName": format!("5{:07x}{system:04x}{own:04x}", self.index)}],
        })
    }

    fn drive_serial(&self, system: usize, own: usize) -> String {
        format!("D{:06}{system}{own:03}", self.index)
    }

    fn smart_storage(&self, system: usize, path: &str, rest: &[&str]) -> Option<Value> {
        let own = format!("{ROOT}{path}");
        match rest {
            [] => Some(json!({
                "@odata.id": own, "@odata.type": "#HpeSmartStorage.v2_0_0.HpeSmartStorage", "Id": "1", "Name": "HpeSmartStorage",
                "Links": {"ArrayControllers": link(&format!("{path}/ArrayControllers"))},
            })),
            ["ArrayControllers"] => Some(collection("HpeSmartStorageArrayController", path, ["0".to_owned()])),
            ["ArrayControllers", "0"] => Some(json!({
                "@odata.id": own, "@odata.type": "#HpeSmartStorageArrayController.v2_2_0.HpeSmartStorageArrayController", "Id": "0",
                "Name": "HpeSmartStorageArrayController", "Links": {"PhysicalDrives": link(&format!("{path}/DiskDrives"))},
            })),
            ["ArrayControllers", "0", "DiskDrives"] => {
                let all = (1..=self.profile.inventory.drive_count).map(|own| own.to_string());
                Some(collection("HpeSmartStorageDiskDrive", path, all))
            }
            ["ArrayControllers", "0", "DiskDrives", number] => {
                let number = number
                    .parse()
                    .ok()
                    .filter(|own| (1..=self.profile.inventory.drive_count).contains(own))?;
                Some(json!({
                    "@odata.id": own, "@odata.type": "#HpeSmartStorageDiskDrive.v2_1_0.HpeSmartStorageDiskDrive", "Id": number.to_string(),
                    "Name": "HpeSmartStorageDiskDrive", "Model": model(number), "SerialNumber": self.drive_serial(system, number),
                    "CapacityMiB": size(number) >> 20, "MediaType": medium(number), "InterfaceType": "SAS", "Status": {"State": "Enabled", "Health": "OK"},
                }))
            }
            _ => None,
        }
    }
}

const fn size(own: usize) -> u64 {
    if own <= 2 { SMALL_DRIVE } else { LARGE_DRIVE }
}

const fn model(own: usize) -> &'static str {
    if own <= 2 { "SIM480 NVMe" } else { "SIM8000 SAS" }
}

const fn medium(own: usize) -> &'static str {
    if own <= 2 { "SSD" } else { "HDD" }
}
