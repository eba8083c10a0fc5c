//! BareMetalNetwork: one layer-2 network with its address plan.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    boot_loader::{BootLoader, MAX_BOOT_LOADERS},
    boot_network::BootNetwork,
};

/// A CEL expression: an IPv4 address as a number. The list of one stands for a variable, which CEL of Kubernetes has none of.
macro_rules! number {
    ($address:literal) => {
        concat!(
            "[",
            $address,
            ".split('.').map(p, int(p))].map(b, b[0] * 16777216 + b[1] * 65536 + b[2] * 256 + b[3])[0]"
        )
    };
}

/// Each dynamic range lies within the prefix and does not run backwards.
const DYNAMIC_RANGES_FIT: &str = concat!(
    "!has(self.dynamicRanges) || self.dynamicRanges.all(d, isIP(d.first) && isIP(d.last) && cidr(self.prefix).containsIP(ip(d.first)) ",
    "&& cidr(self.prefix).containsIP(ip(d.last)) && ",
    number!("d.first"),
    " <= ",
    number!("d.last"),
    ")"
);

/// No dynamic range has an address in common with the ranges for instances.
const DYNAMIC_RANGES_APART: &str = concat!(
    "!has(self.dynamicRanges) || !has(self.ranges) || self.dynamicRanges.all(d, self.ranges.all(r, ",
    "isIP(d.first) && isIP(d.last) && isIP(r.first) && isIP(r.last) && (",
    number!("d.last"),
    " < ",
    number!("r.first"),
    " || ",
    number!("r.last"),
    " < ",
    number!("d.first"),
    ")))"
);

/// Nor has one the gateway.
const DYNAMIC_RANGES_WITHOUT_GATEWAY: &str = concat!(
    "!has(self.dynamicRanges) || !has(self.gateway) || (isIP(self.gateway) && self.dynamicRanges.all(d, isIP(d.first) && isIP(d.last) && (",
    number!("self.gateway"),
    " < ",
    number!("d.first"),
    " || ",
    number!("d.last"),
    " < ",
    number!("self.gateway"),
    ")))"
);

/// The dynamic range of IPv6 lies within the prefix, in one block of 65,536 addresses: CEL of Kubernetes does not reckon with IPv6 addresses, so that it does not run backwards or into
/// the range for instances is for netboot to say.
const IPV6_DYNAMIC_RANGES_FIT: &str = concat!(
    "!has(self.dynamicRanges) || self.dynamicRanges.all(d, isIP(d.first) && isIP(d.last) && ip(d.first).family() == 6 && isCIDR(self.prefix) ",
    "&& cidr(self.prefix).containsIP(ip(d.first)) && cidr(self.prefix).containsIP(ip(d.last)) && cidr(d.first + '/112').containsIP(ip(d.last)))"
);

/// One layer-2 network.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalNetwork",
    plural = "baremetalnetworks",
    singular = "baremetalnetwork",
    shortname = "bmn",
    category = "baremetal",
    status = "BareMetalNetworkStatus",
    derive = "PartialEq",
    doc = "One layer-2 network: prefixes, ranges for instances, gateway, DNS, VLAN, MTU, and which DHCP service netboot offers there.",
    printcolumn = r#"{"name":"IPv4","type":"string","jsonPath":".spec.ipv4.prefix"}"#,
    printcolumn = r#"{"name":"IPv6","type":"string","jsonPath":".spec.ipv6.prefix"}"#,
    printcolumn = r#"{"name":"VLAN","type":"integer","jsonPath":".spec.vlan","priority":1}"#,
    printcolumn = r#"{"name":"DHCP","type":"string","jsonPath":".spec.dhcp"}"#,
    printcolumn = r#"{"name":"Healthy","type":"string","jsonPath":".status.conditions[?(@.type=='NetbootHealthy')].status"}"#,
    printcolumn = r#"{"name":"Other DHCP","type":"string","jsonPath":".status.conditions[?(@.type=='OtherDHCPServer')].status","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.ipv4) || has(self.ipv6)").message("at least one of ipv4 and ipv6 is needed"))]
#[x_kube(validation = Rule::new("!has(self.dhcp) || self.dhcp != 'Full' || has(self.ipv6) || (has(self.ipv4) && ((has(self.ipv4.dynamicRanges) && size(self.ipv4.dynamicRanges) > 0) || (has(self.ipv4.ranges) && size(self.ipv4.ranges) > 0)))").message("dhcp Full has nothing to give out: add a range to spec.ipv4.dynamicRanges, for whoever comes, or to spec.ipv4.ranges, for instances; or add spec.ipv6"))]
pub struct BareMetalNetworkSpec {
    /// IPv4 plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.prefix.contains('.')").message("ipv4.prefix must be an IPv4 prefix such as 192.168.1.0/24"))]
    #[x_kube(validation = Rule::new(DYNAMIC_RANGES_FIT).message("each of ipv4.dynamicRanges must lie within ipv4.prefix, its first address not after its last"))]
    #[x_kube(validation = Rule::new(DYNAMIC_RANGES_APART).message("ipv4.dynamicRanges and ipv4.ranges must have no address in common: what instances get, no other machine may lease"))]
    #[x_kube(validation = Rule::new(DYNAMIC_RANGES_WITHOUT_GATEWAY).message("ipv4.dynamicRanges must not contain ipv4.gateway"))]
    pub ipv4: Option<AddressPlan>,
    /// IPv6 plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.prefix.contains(':')").message("ipv6.prefix must be an IPv6 prefix such as 2001:db8::/64"))]
    #[x_kube(validation = Rule::new("!has(self.dynamicRanges) || size(self.dynamicRanges) <= 1").message("ipv6.dynamicRanges may have one range"))]
    #[x_kube(validation = Rule::new(IPV6_DYNAMIC_RANGES_FIT).message("ipv6.dynamicRanges must lie within ipv6.prefix, and first and last address must differ in their last 16 bits only"))]
    pub ipv6: Option<AddressPlan>,
    /// VLAN id of tagged frames; left out: untagged. Installed systems and agents in this network send with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// MTU in bytes. An agent uses it as far as the way to its server carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: Option<u16>,
    /// How the agent goes on, on machines whose firmware booted from this network. What a BareMetalHardware says outweighs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_network: Option<BootNetwork>,
    /// What firmware is given to boot there, where it is not what netboot would choose. What a BareMetalHardware says outweighs it, row by row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_BOOT_LOADERS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["firmware"]))]
    pub boot_loaders: Vec<BootLoader>,
    /// Which DHCP service netboot offers there.
    #[serde(default)]
    pub dhcp: DhcpMode,
    /// For how long netboot leases addresses there, in seconds. A machine renews at half of it.
    #[serde(default = "default_lease_seconds")]
    #[schemars(range(min = 120, max = 604_800))]
    pub lease_seconds: u32,
    /// Whether machines that write the same packed image at the same time give each other parts of it.
    #[serde(default)]
    pub image_sharing: ImageSharing,
}

/// An hour, as most routers have it.
fn default_lease_seconds() -> u32 {
    3600
}

impl Default for BareMetalNetworkSpec {
    fn default() -> Self {
        Self {
            ipv4: None,
            ipv6: None,
            vlan: None,
            mtu: None,
            dhcp: DhcpMode::default(),
            lease_seconds: default_lease_seconds(),
            image_sharing: ImageSharing::default(),
            boot_network: None,
            boot_loaders: Vec::new(),
        }
    }
}

/// What netboot sees there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalNetworkStatus {
    /// `OtherDHCPServer`, `NetbootHealthy`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What each replica of netboot found when it last looked at itself there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["replica"]))]
    pub netboot: Vec<NetbootReport>,
}

impl BareMetalNetworkStatus {
    /// Reports of replicas that are there, as far as is known: those with a sign of life within [`NetbootReport::LIFE`] before `now`.
    pub fn fresh_reports(&self, now: Timestamp) -> impl Iterator<Item = &NetbootReport> {
        let fresh = move |report: &&NetbootReport| now.duration_since(report.time.0) < NetbootReport::LIFE;
        self.netboot.iter().filter(fresh)
    }
}

impl NetbootReport {
    /// A replica gives a sign of life four times a day. A report without one for twice that long is nobody's any more.
    pub const LIFE: SignedDuration = SignedDuration::from_hours(13);
}

/// What a replica of netboot found on its own interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetbootReport {
    /// Its name.
    pub replica: String,
    /// The interface by which it serves this network.
    pub interface: String,
    /// Its address there.
    pub address: String,
    /// When it wrote this: when something changed, and four times a day.
    pub time: Time,
    /// What is wrong or odd. Empty: nothing, as far as can be seen from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<NetbootFinding>,
}

/// One thing that a replica found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetbootFinding {
    /// What was looked at, as `kube-baremetal netboot doctor` calls it.
    pub check: String,
    /// How bad it is.
    pub verdict: NetbootVerdict,
    /// What was seen, and what to do.
    pub message: String,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NetbootVerdict {
    /// It may be meant so, and may be the reason.
    Warning,
    /// Machines do not boot like this.
    Problem,
}

/// Addresses of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPlan {
    /// The network in CIDR form.
    #[schemars(length(min = 4, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub prefix: String,
    /// From which instances get addresses. Left out: none are given, only addresses wished for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ranges: Vec<AddressRange>,
    /// From which netboot leases addresses to machines without a reservation, where `dhcp` is `Full`. Of IPv6 one range of at most 65,536 addresses; without one, machines make their
    /// addresses of an advertised prefix of 64 bits by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub dynamic_ranges: Vec<AddressRange>,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub dns: Vec<String>,
}

/// First and last address, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressRange {
    /// First.
    #[schemars(length(max = 45))]
    pub first: String,
    /// Last.
    #[schemars(length(max = 45))]
    pub last: String,
}

/// Whether machines of a network share what they write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImageSharing {
    /// They do, while they write the same packed image. A machine listens for that within its own network prefix, and gives away nothing but parts of the image.
    #[default]
    Enabled,
    /// Each machine fetches everything from a server; none listens.
    Disabled,
}

/// Which DHCP service netboot offers on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DhcpMode {
    /// None: somebody else's DHCP points machines at the boot URL.
    Off,
    /// Boot parameters beside somebody else's DHCP server (ProxyDHCP), and never an address.
    #[default]
    Proxy,
    /// Addresses too: those reserved for a MAC address by a BareMetalAddress, and leases from `dynamicRanges`. The only DHCP server there, and one that says so: what it does
    /// not know it refuses. Where there is a plan for IPv6, netboot advertises its prefix, never itself as a router.
    Full,
}
