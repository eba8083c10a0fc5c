//! What the documents of a machine say that it is. Pure: documents in, an [`Inventory`] out; nothing here fails, and nothing that is too long or too much is kept.
//!
//! DSP0268: ComputerSystem, Processor, Memory, EthernetInterface, NetworkDeviceFunction, Storage, Drive, SimpleStorage. HPE's `DiskDrive` is its own, of before the standard had drives.

use serde_json::Value;

use super::{
    quirks::Quirk,
    reader::{self, Link},
};
use crate::inventory::{Drive, Interface, Inventory, LONGEST_TEXT, MOST_DRIVES, MOST_INTERFACES, Medium};

/// The most that a number of cores, threads or sockets can mean.
const MOST_COUNTED: u64 = 65_536;
/// The most bytes that memory or a drive can mean: beyond, somebody took another unit.
const MOST_BYTES: u64 = 1 << 60;

/// Text that is fit to be kept: one line, of bounded length.
fn words(object: &Value, name: &str) -> Option<String> {
    let text: String = reader::text(object, name)?
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_TEXT)
        .collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A number that is not negative, however it is written.
fn number(object: &Value, name: &str) -> Option<f64> {
    let number: f64 = reader::text(object, name)?.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// A number of bytes out of a number of units; none where it is zero, or more than there can be.
fn bytes(object: &Value, name: &str, unit: u64) -> Option<u64> {
    // Whole numbers are read as such: a drive's bytes are more than a float holds.
    let text = reader::text(object, name)?;
    let whole = text.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "neither negative nor beyond u64, which `number` and the bound see to; a unit is a power of two"
    )]
    let bytes = whole.or_else(|| number(object, name).map(|number| (number * unit as f64).min(u64::MAX as f64) as u64))?;
    (1..=MOST_BYTES).contains(&bytes).then_some(bytes)
}

fn count(object: &Value, name: &str) -> Option<u32> {
    let count = bytes(object, name, 1).filter(|count| *count <= MOST_COUNTED)?;
    u32::try_from(count).ok()
}

/// Whether something is only a place for it.
fn is_absent(document: &Value) -> bool {
    let state = reader::member(document, "Status").and_then(|status| reader::text(status, "State"));
    state.is_some_and(|state| state.eq_ignore_ascii_case("Absent"))
}

/// What the ComputerSystem itself says.
pub fn read_system(document: &Value, quirk: &Quirk, found: &mut Inventory) {
    found.vendor = words(document, "Manufacturer");
    found.product = words(document, "Model");
    found.serial = quirk.serial.iter().find_map(|name| words(document, name));
    found.uuid = words(document, "UUID");
    found.asset_tag = words(document, "AssetTag");
    found.firmware = words(document, "BiosVersion");
    let nothing = Value::Null;
    let summary = reader::member(document, "ProcessorSummary").unwrap_or(&nothing);
    found.processors.sockets = count(summary, "Count");
    found.processors.model = words(summary, "Model");
    found.processors.cores = count(summary, "CoreCount");
    found.processors.threads = count(summary, "LogicalProcessorCount");
    let summary = reader::member(document, "MemorySummary").unwrap_or(&nothing);
    found.memory_bytes = bytes(summary, "TotalSystemMemoryGiB", 1 << 30);
}

/// What the processors' own documents add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    sockets: u32,
    /// None once one did not tell.
    cores: Option<u32>,
    threads: Option<u32>,
}

/// Takes in a Processor.
pub fn read_processor(document: &Value, sum: &mut Sum, found: &mut Inventory) {
    let kind = reader::text(document, "ProcessorType");
    if is_absent(document) || kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("CPU")) {
        return;
    }
    let more = |so_far: Option<u32>, name: &str| so_far.and_then(|so_far| so_far.checked_add(count(document, name)?));
    let first = sum.sockets == 0;
    sum.cores = more(if first { Some(0) } else { sum.cores }, "TotalCores");
    sum.threads = more(if first { Some(0) } else { sum.threads }, "TotalThreads");
    sum.sockets += 1;
    let own = &mut found.processors;
    // The summary's model is often a family's name, or nothing.
    if let Some(model) = words(document, "Model").filter(|_| first) {
        own.model = Some(model);
    }
    let set = reader::text(document, "InstructionSet").or_else(|| reader::text(document, "ProcessorArchitecture"));
    own.architecture = own.architecture.or(match set.unwrap_or_default().to_ascii_lowercase().as_str() {
        // No server of this century is 32-bit; some say no more than the family.
        "x86-64" | "x86" => Some("amd64"),
        "arm-a64" => Some("arm64"),
        _ => None,
    });
}

/// Puts what was added up in the place of what the summary said, as far as it is known of all of them.
pub fn add_up(sum: &Sum, found: &mut Inventory) {
    if sum.sockets == 0 {
        return;
    }
    let own = &mut found.processors;
    own.sockets = Some(sum.sockets);
    own.cores = sum.cores.filter(|cores| *cores > 0).or(own.cores);
    own.threads = sum.threads.filter(|threads| *threads > 0).or(own.threads);
}

/// Takes in a Memory module.
pub fn read_module(document: &Value, found: &mut Inventory) {
    if !is_absent(document)
        && let Some(bytes) = bytes(document, "CapacityMiB", 1 << 20)
    {
        let so_far = found.memory_bytes.unwrap_or_default();
        found.memory_bytes = Some(so_far.saturating_add(bytes).min(MOST_BYTES));
    }
}

/// A MAC address without what only separates its bytes.
fn bare(mac: &str) -> String {
    mac.chars()
        .filter(char::is_ascii_hexdigit)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Takes in an EthernetInterface, or a NetworkDeviceFunction, which has its addresses a level deeper.
pub fn read_interface(document: &Value, found: &mut Inventory) {
    let inner = reader::member(document, "Ethernet").unwrap_or(document);
    let mac = ["PermanentMACAddress", "MACAddress"].iter().find_map(|name| words(inner, name));
    let Some(mac) = mac.filter(|mac| bare(mac).len() == 12 && bare(mac) != "000000000000") else {
        return;
    };
    // A network between the machine and its BMC alone.
    let inside = reader::member(document, "Links").is_some_and(|links| reader::link(links, "HostInterface").is_some());
    // Bonds and VLANs stand beside the interfaces that they are made of.
    let known = found.interfaces.iter().any(|own| bare(&own.mac) == bare(&mac));
    if known || inside || is_absent(document) || found.interfaces.len() >= MOST_INTERFACES {
        return;
    }
    let link = reader::text(document, "LinkStatus").or_else(|| reader::text(inner, "LinkStatus"));
    found.interfaces.push(Interface {
        name: ["Id", "Name"].iter().find_map(|name| words(document, name)).unwrap_or_default(),
        mac,
        link: match link.unwrap_or_default().to_ascii_lowercase().as_str() {
            "linkup" | "up" => Some(true),
            "linkdown" | "nolink" | "down" => Some(false),
            _ => None,
        },
        speed_mbps: bytes(document, "SpeedMbps", 1).and_then(|speed| u32::try_from(speed).ok()),
    });
}

fn medium(document: &Value) -> Option<Medium> {
    match reader::text(document, "MediaType")?.to_ascii_lowercase().as_str() {
        "hdd" => Some(Medium::Hdd),
        "ssd" => Some(Medium::Ssd),
        _ => None,
    }
}

/// A name that no other drive has: of the forms that the standard knows those that a kernel shows too.
fn wwn(document: &Value) -> Option<String> {
    reader::list(document, "Identifiers").find_map(|identifier| {
        let form = reader::text(identifier, "DurableNameFormat")?;
        let known = ["NAA", "EUI"].iter().any(|known| form.eq_ignore_ascii_case(known));
        words(identifier, "DurableName").filter(|_| known)
    })
}

fn keep(drive: Drive, found: &mut Inventory) {
    let same = |own: &Drive| own.serial.is_some() && (&own.serial, &own.model) == (&drive.serial, &drive.model);
    // The drives of a box with two ways to it are shown twice.
    if found.drives.len() < MOST_DRIVES && !found.drives.iter().any(same) {
        found.drives.push(drive);
    }
}

/// Takes in a Drive, or HPE's `DiskDrive`.
pub fn read_drive(document: &Value, found: &mut Inventory) {
    if is_absent(document) {
        return;
    }
    let drive = Drive {
        name: ["Name", "Id"].iter().find_map(|name| words(document, name)).unwrap_or_default(),
        model: words(document, "Model"),
        serial: words(document, "SerialNumber"),
        wwn: wwn(document),
        bytes: bytes(document, "CapacityBytes", 1).or_else(|| bytes(document, "CapacityMiB", 1 << 20)),
        medium: medium(document),
        protocol: ["Protocol", "InterfaceType"]
            .iter()
            .find_map(|name| words(document, name))
            .map(|protocol| protocol.to_ascii_lowercase()),
    };
    // An empty bay that does not say so.
    if drive.model.is_some() || drive.serial.is_some() || drive.bytes.is_some() {
        keep(drive, found);
    }
}

/// Takes in a SimpleStorage: its devices have no documents of their own.
pub fn read_simple_storage(document: &Value, found: &mut Inventory) {
    for device in reader::list(document, "Devices").take(MOST_DRIVES) {
        if is_absent(device) {
            continue;
        }
        let drive = Drive {
            name: words(device, "Name").unwrap_or_default(),
            model: words(device, "Model"),
            bytes: bytes(device, "CapacityBytes", 1),
            ..Drive::default()
        };
        if drive.bytes.is_some() {
            keep(drive, found);
        }
    }
}

/// How much of a collection a service can send at once, by what it says of itself. None: it does not say that it can.
#[must_use]
pub fn expansion(root: &Value) -> Option<&'static str> {
    let features = reader::member(root, "ProtocolFeaturesSupported")?;
    let query = reader::member(features, "ExpandQuery")?;
    if reader::flag(query, "NoLinks") != Some(true) {
        return None;
    }
    Some(if reader::flag(query, "Levels") == Some(true) {
        "$expand=.($levels=1)"
    } else {
        "$expand=."
    })
}

/// A link that asks for what it leads to, too.
#[must_use]
pub fn expanded(link: &Link, query: &str) -> Link {
    let join = if link.as_str().contains('?') { '&' } else { '?' };
    Link::parse(&format!("{}{join}{query}", link.as_str())).unwrap_or_else(|| link.clone())
}

/// Whether a member of a collection is there as a whole, and not only as a link.
#[must_use]
pub fn is_whole(member: &Value) -> bool {
    member
        .as_object()
        .is_some_and(|members| members.keys().any(|name| !name.starts_with('@') && name != "href"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::redfish::quirks;

    #[test]
    fn numbers_are_read_however_they_are_written_and_never_believed_beyond_reason() {
        let odd = json!({"a": 96, "b": "96", "c": 96.5, "d": -1, "e": 1e300, "f": "many", "g": 0, "h": 960_197_124_096_u64, "i": "18446744073709551615"});
        assert_eq!(bytes(&odd, "a", 1 << 30), Some(96 << 30));
        assert_eq!(bytes(&odd, "b", 1 << 30), Some(96 << 30));
        assert_eq!(bytes(&odd, "c", 1 << 30), Some((96 << 30) + (1 << 29)));
        for name in ["d", "e", "f", "g", "i", "missing"] {
            assert_eq!(bytes(&odd, name, 1 << 30), None, "{name}");
        }
        assert_eq!(bytes(&odd, "h", 1), Some(960_197_124_096));
        assert_eq!(count(&odd, "h"), None);
    }

    #[test]
    fn processors_are_added_up_where_each_tells_and_else_the_summary_counts() {
        let mut found = Inventory::default();
        let system = json!({"ProcessorSummary": {"Count": 4, "Model": "Xeon", "CoreCount": 40}});
        read_system(&system, &quirks::STANDARD, &mut found);
        let mut sum = Sum::default();
        let cpu = |threads: Value| json!({"ProcessorType": "CPU", "Model": "Xeon Gold 6338", "TotalCores": "32", "TotalThreads": threads, "InstructionSet": "x86-64"});
        read_processor(&json!({"ProcessorType": "GPU", "TotalCores": 6912}), &mut sum, &mut found);
        read_processor(
            &json!({"ProcessorType": "CPU", "Status": {"State": "Absent"}}),
            &mut sum,
            &mut found,
        );
        read_processor(&cpu(json!(64)), &mut sum, &mut found);
        read_processor(&cpu(Value::Null), &mut sum, &mut found);
        add_up(&sum, &mut found);
        let own = &found.processors;
        assert_eq!((own.sockets, own.cores, own.threads), (Some(2), Some(64), None));
        assert_eq!((own.model.as_deref(), own.architecture), (Some("Xeon Gold 6338"), Some("amd64")));
    }

    #[test]
    fn an_interface_is_one_whatever_stands_on_it_and_one_without_an_address_is_none() {
        let mut found = Inventory::default();
        for document in [
            json!({"Id": "NIC.1", "PermanentMACAddress": "AA:BB:CC:00:00:01", "MACAddress": "02:00:00:00:00:09", "LinkStatus": "LinkUp", "SpeedMbps": "25000"}),
            json!({"Id": "vlan10", "MACAddress": "aa-bb-cc-00-00-01"}),
            json!({"Id": "NIC.2", "Ethernet": {"MACAddress": "AABBCC000002"}}),
            json!({"Id": "ib0", "MACAddress": "00:00:10:29:fe:80:00:00:00:00:00:00:00:02:c9:03:00:31:78:f1"}),
            json!({"Id": "ToManager", "MACAddress": "0a:8f:c3:a5:8a:71", "Links": {"HostInterface": {"@odata.id": "/redfish/v1/Managers/1/HostInterfaces/1"}}}),
            json!({"Id": "NIC.3", "MACAddress": null}),
            json!({"Id": "NIC.4", "MACAddress": "00:00:00:00:00:00"}),
        ] {
            read_interface(&document, &mut found);
        }
        let seen: Vec<_> = found.interfaces.iter().map(|i| (i.name.as_str(), i.link, i.speed_mbps)).collect();
        assert_eq!(seen, [("NIC.1", Some(true), Some(25_000)), ("NIC.2", None, None)]);
        assert_eq!(found.interfaces[0].mac, "AA:BB:CC:00:00:01");
    }

    #[test]
    fn drives_are_read_in_the_standards_form_and_in_hpes_and_never_twice() {
        let mut found = Inventory::default();
        let drive = json!({"Name": "SSD 0", "Model": "MZ7", "SerialNumber": "S4", "CapacityBytes": 480_103_981_056_u64, "MediaType": "SSD", "Protocol": "SATA",
            "Identifiers": [{"DurableNameFormat": "UUID", "DurableName": "x"}, {"DurableNameFormat": "NAA", "DurableName": "5002538E00000001"}]});
        read_drive(&drive, &mut found);
        read_drive(&drive, &mut found);
        read_drive(&json!({"Name": "Bay 2", "Status": {"State": "Absent"}, "Model": "x"}), &mut found);
        read_drive(&json!({"Name": "Bay 3"}), &mut found);
        read_drive(
            &json!({"Name": "HpeSmartStorageDiskDrive", "Model": "EG0", "SerialNumber": "K1", "CapacityMiB": 572_325, "MediaType": "HDD", "InterfaceType": "SAS"}),
            &mut found,
        );
        read_simple_storage(
            &json!({"Devices": [{"Name": "SATA 1", "Model": "ABC", "CapacityBytes": "8000000000000"}, null, {"Name": "empty"}]}),
            &mut found,
        );
        let seen: Vec<_> = found
            .drives
            .iter()
            .map(|d| (d.model.as_deref(), d.bytes, d.medium, d.protocol.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                (Some("MZ7"), Some(480_103_981_056), Some(Medium::Ssd), Some("sata")),
                (Some("EG0"), Some(572_325 << 20), Some(Medium::Hdd), Some("sas")),
                (Some("ABC"), Some(8_000_000_000_000), None, None)
            ]
        );
        assert_eq!(found.drives[0].wwn.as_deref(), Some("5002538E00000001"));
    }

    #[test]
    fn what_a_dell_calls_its_serial_number_is_its_boards() {
        let dell = json!({"Manufacturer": "Dell Inc.", "SerialNumber": "CNEXAMPLE00001", "SKU": "ABC1234"});
        let mut found = Inventory::default();
        read_system(&dell, quirks::of("Dell Inc."), &mut found);
        assert_eq!(found.serial.as_deref(), Some("ABC1234"));
        read_system(&dell, &quirks::STANDARD, &mut found);
        assert_eq!(found.serial.as_deref(), Some("CNEXAMPLE00001"));
    }

    #[test]
    fn a_collection_is_asked_for_as_a_whole_where_the_service_says_so() {
        let says = |query: Value| expansion(&json!({"ProtocolFeaturesSupported": {"ExpandQuery": query}}));
        assert_eq!(says(json!({"NoLinks": true, "Levels": true})), Some("$expand=.($levels=1)"));
        assert_eq!(says(json!({"NoLinks": "true"})), Some("$expand=."));
        assert_eq!(says(json!({"ExpandAll": true, "NoLinks": false})), None);
        assert_eq!(expansion(&json!({})), None);
        let link = Link::parse("/redfish/v1/Systems/1/Storage").expect("a link");
        assert_eq!(expanded(&link, "$expand=.").as_str(), "/redfish/v1/Systems/1/Storage?$expand=.");
        assert!(is_whole(&json!({"@odata.id": "/a", "Model": "x"})) && !is_whole(&json!({"@odata.id": "/a"})));
    }
}
