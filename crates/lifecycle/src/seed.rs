//! What goes onto the config drive: OpenStack `config-2` as cloud-init, ignition-less images and cloudbase-init read it, plus the guest helper's configuration.
//!
//! Invariant: no text of a tenant is ever put into a script. User data is handed over as it is, in its own file; vendor data is one fixed script.
//! The vendor data is a part of its own (cloud-init does not merge lists, so a tenant's `runcmd` would displace one of ours).
//!
//! Nothing is stored or sealed here: the caller seals the result to one session's key.

use std::{collections::BTreeMap, net::IpAddr};

use agent_protocol::{guest::GuestConfig, identity::MacAddress, link::Bond, seed::Seed};
use api::{BareMetalInstance, endpoint::EndpointAddress};
use serde_json::{Value, json};

/// Where everything for cloud-init lies.
const LATEST: &str = "openstack/latest";
/// The guest helper's configuration on the drive.
pub const GUEST_CONFIG_PATH: &str = "kube-baremetal/guest.json";
/// The guest helper's binary on the drive; the agent puts it there.
pub const GUEST_HELPER_PATH: &str = "kube-baremetal/guest-helper";

/// Installs the guest helper from the config drive. Fixed text, safe to run at every boot, harmless without the drive.
const INSTALL_GUEST_HELPER: &str = include_str!("guest-install.sh");

/// One NIC of the instance with what its endpoint was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSeed {
    /// The NIC.
    pub mac: MacAddress,
    /// Static addresses; empty: DHCP.
    pub addresses: Vec<EndpointAddress>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// VLAN id of tagged frames.
    pub vlan: Option<u16>,
}

/// What a seed is rendered from.
#[derive(Debug, Clone, Copy)]
pub struct SeedFacts<'a> {
    /// The instance.
    pub instance: &'a BareMetalInstance,
    /// Contents of `spec.userData`'s Secret key.
    pub user_data: Option<&'a str>,
    /// Its NICs, in order; empty: DHCP on `boot_mac`.
    pub networks: &'a [NetworkSeed],
    /// MAC the machine booted from.
    pub boot_mac: MacAddress,
    /// The bond that the agent came over: the system needs it as much.
    pub bond: Option<&'a Bond>,
    /// For the guest helper; left out when `spec.guestHelper` is false, whatever stands here.
    pub guest: Option<&'a GuestConfig>,
}

/// Why a seed cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The instance has no uid: it was never stored.
    #[error("the instance has no uid; only a stored instance has a seed")]
    NoUid,
    /// An endpoint's status holds no address.
    #[error("{0:?} is not an IP address; the endpoint's status must hold one")]
    BadAddress(String),
    /// JSON could not be written.
    #[error("the seed could not be written as JSON: {0}")]
    Json(String),
}

/// Renders the config drive's files.
///
/// # Errors
/// [`RenderError`] as its variants say.
pub fn render(facts: &SeedFacts<'_>) -> Result<Seed, RenderError> {
    let instance = facts.instance;
    let uid = instance
        .metadata
        .uid
        .as_deref()
        .filter(|u| !u.is_empty())
        .ok_or(RenderError::NoUid)?;
    let guest = facts.guest.filter(|_| instance.spec.guest_helper);
    let mut files = BTreeMap::new();
    let mut put = |path: String, value: &Value| -> Result<(), RenderError> {
        let text = serde_json::to_string_pretty(value).map_err(|e| RenderError::Json(e.to_string()))?;
        files.insert(path, text);
        Ok(())
    };
    put(format!("{LATEST}/meta_data.json"), &meta_data(instance, uid))?;
    put(format!("{LATEST}/network_data.json"), &network_data(facts)?)?;
    if let Some(guest) = guest {
        put(format!("{LATEST}/vendor_data.json"), &json!({ "cloud-init": vendor_data_part() }))?;
        let config = serde_json::to_value(guest).map_err(|e| RenderError::Json(e.to_string()))?;
        put(GUEST_CONFIG_PATH.to_owned(), &config)?;
    }
    if let Some(user_data) = facts.user_data {
        files.insert(format!("{LATEST}/user_data"), user_data.to_owned());
    }
    Ok(Seed {
        files,
        guest_helper: guest.is_some(),
    })
}

/// The host name of an instance: its `spec.hostname`, else its name up to the first dot, at most 63 characters.
pub fn hostname(instance: &BareMetalInstance) -> String {
    if let Some(name) = &instance.spec.hostname {
        return name.clone();
    }
    let name = instance.metadata.name.as_deref().unwrap_or("instance");
    let label: String = name.split('.').next().unwrap_or(name).chars().take(63).collect();
    label.trim_matches('-').to_owned()
}

fn meta_data(instance: &BareMetalInstance, uid: &str) -> Value {
    let keys: serde_json::Map<String, Value> = instance
        .spec
        .ssh_keys
        .iter()
        .enumerate()
        .map(|(i, key)| (format!("key-{i}"), Value::String(key.clone())))
        .collect();
    let entries: Vec<Value> = instance
        .spec
        .ssh_keys
        .iter()
        .enumerate()
        .map(|(i, key)| json!({ "name": format!("key-{i}"), "type": "ssh", "data": key }))
        .collect();
    json!({
        "uuid": uid,
        "name": instance.metadata.name,
        "hostname": hostname(instance),
        "project_id": instance.metadata.namespace,
        "launch_index": 0,
        "public_keys": keys,
        "keys": entries,
    })
}

/// Multipart MIME with one fixed part, so that cloud-init runs it beside whatever the tenant says.
fn vendor_data_part() -> String {
    const BOUNDARY: &str = "==kube-baremetal-vendor-data==";
    format!(
        "Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n--{BOUNDARY}\nContent-Type: text/x-shellscript; charset=\"utf-8\"\nMIME-Version: 1.0\nContent-Transfer-Encoding: 7bit\nContent-Disposition: attachment; filename=\"kube-baremetal-guest-install.sh\"\n\n{INSTALL_GUEST_HELPER}\n--{BOUNDARY}--\n"
    )
}

fn mask(prefix_length: u8) -> String {
    let host = 32 - u32::from(prefix_length.min(32));
    let bits = u32::MAX.checked_shl(host).unwrap_or(0);
    std::net::Ipv4Addr::from(bits).to_string()
}

fn static_network(index: usize, at: usize, link: &str, address: &EndpointAddress) -> Result<Value, RenderError> {
    let ip: IpAddr = address
        .address
        .parse()
        .map_err(|_| RenderError::BadAddress(address.address.clone()))?;
    let mut routes = Vec::new();
    let (kind, any, netmask) = match ip {
        IpAddr::V4(_) => ("ipv4", ("0.0.0.0", "0.0.0.0"), mask(address.prefix_length)),
        // cloud-init reads an IPv6 prefix length from the netmask's place.
        IpAddr::V6(_) => ("ipv6", ("::", "::"), address.prefix_length.to_string()),
    };
    if let Some(gateway) = &address.gateway {
        let gateway: IpAddr = gateway.parse().map_err(|_| RenderError::BadAddress(gateway.clone()))?;
        routes.push(json!({ "network": any.0, "netmask": any.1, "gateway": gateway.to_string() }));
    }
    let services: Vec<Value> = address.dns.iter().map(|d| json!({ "type": "dns", "address": d })).collect();
    Ok(json!({
        "id": format!("network{index}-{at}"),
        "type": kind,
        "link": link,
        "ip_address": ip.to_string(),
        "netmask": netmask,
        "routes": routes,
        "services": services,
    }))
}

/// Name of the bond in network_data.
const BOND: &str = "bond0";

/// The bond with its NICs. It has the address of the NIC that the endpoint is for, so that a DHCP server knows it.
fn bond_links(bond: &Bond, seed: &NetworkSeed) -> Vec<Value> {
    let name = |index: usize| format!("{BOND}-nic{index}");
    let nic = |(index, mac): (usize, &MacAddress)| json!({ "id": name(index), "type": "phy", "ethernet_mac_address": mac.to_string(), "mtu": seed.mtu });
    let mut links: Vec<Value> = bond.members.iter().enumerate().map(nic).collect();
    let mut whole = json!({
        "id": BOND,
        "type": "bond",
        "bond_links": (0..bond.members.len()).map(name).collect::<Vec<_>>(),
        "bond_mode": bond.mode.as_str(),
        "bond_miimon": 100,
        "ethernet_mac_address": seed.mac.to_string(),
        "mtu": seed.mtu,
    });
    if let Some(rate) = bond.lacp_rate {
        whole["bond_lacp_rate"] = rate.as_str().into();
    }
    if let Some(hash) = bond.transmit_hash {
        whole["bond_xmit_hash_policy"] = hash.as_str().into();
    }
    links.push(whole);
    links
}

fn network_data(facts: &SeedFacts<'_>) -> Result<Value, RenderError> {
    let by_dhcp = [NetworkSeed {
        mac: facts.boot_mac,
        addresses: Vec::new(),
        mtu: None,
        vlan: None,
    }];
    let seeds = if facts.networks.is_empty() { &by_dhcp } else { facts.networks };
    let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    let mut bonded = false;
    for (index, seed) in seeds.iter().enumerate() {
        let mac = seed.mac.to_string();
        let below = match facts.bond.filter(|bond| bond.members.contains(&seed.mac)) {
            Some(bond) => {
                // Several VLANs may lie on one bond.
                if !std::mem::replace(&mut bonded, true) {
                    links.extend(bond_links(bond, seed));
                }
                BOND.to_owned()
            }
            None => {
                let physical = format!("nic{index}");
                links.push(json!({ "id": physical, "type": "phy", "ethernet_mac_address": mac, "mtu": seed.mtu }));
                physical
            }
        };
        let mut link = below.clone();
        if let Some(vlan) = seed.vlan {
            link = format!("{below}.{vlan}");
            links.push(json!({
                "id": link,
                "type": "vlan",
                "vlan_link": below,
                "vlan_id": vlan,
                "vlan_mac_address": mac,
                "mtu": seed.mtu,
            }));
        }
        if seed.addresses.is_empty() {
            networks.push(json!({ "id": format!("network{index}"), "type": "ipv4_dhcp", "link": link }));
        }
        for (at, address) in seed.addresses.iter().enumerate() {
            networks.push(static_network(index, at, &link, address)?);
            for dns in &address.dns {
                let service = json!({ "type": "dns", "address": dns });
                if !services.contains(&service) {
                    services.push(service);
                }
            }
        }
    }
    Ok(json!({ "links": links, "networks": networks, "services": services }))
}
