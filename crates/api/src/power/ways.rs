//! The ways to switch a machine, as a spec says them: one struct each, and what belongs to one of them ([`VirtualMedia`]).
//!
//! Credentials are in Secrets of the operator's namespace, named and never written here. What each way can do stands in `docs/reference/power.md`.

use agent_protocol::{fixed::FixedAddress, identity::MacAddress, link::LinkError};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalSecretName;

/// A Redfish service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.address.startsWith('https://') || self.insecure").message("redfish.address must begin with https://: over plain HTTP the password is readable by everybody on the way (insecure: true allows it)"))]
pub struct RedfishPower {
    /// The service's base URL: scheme, host and, where it is not the usual one, port.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// Which of the service's systems this machine is: the `Id` of the ComputerSystem. Left out: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub system: Option<String>,
    /// `username` and `password`, in a Secret of the operator's namespace.
    pub credentials: LocalSecretName,
    /// SHA-256 of the service's certificate, in hexadecimal with colons or without: it is trusted, and no other. Left out: the authorities in the Secret's `ca.crt` decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
    /// Allows plain HTTP: for simulators.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// The machine boots into the agent from a medium that its BMC attaches, with a fixed address: for networks without DHCP. Left out: it boots from the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_media: Option<VirtualMedia>,
}

/// How a machine boots from a virtual medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("isCIDR(self.address)").message("virtualMedia.address must be the machine's address with the length of its network's prefix, such as 10.77.0.50/24"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || (isIP(self.gateway) && isCIDR(self.address) && (self.gateway.startsWith('fe80:') || cidr(self.address).containsIP(ip(self.gateway))))").message("virtualMedia.gateway must be an address of the network that virtualMedia.address is in"))]
#[x_kube(validation = Rule::new("!has(self.dns) || self.dns.all(server, isIP(server))").message("virtualMedia.dns must be addresses"))]
pub struct VirtualMedia {
    /// Where the BMC fetches the medium, and the machine finds netboot: the base URL of netboot's plain HTTP.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^http://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub server: String,
    /// The NIC that has the address.
    pub mac: MacAddress,
    /// The address that the agent has, with the length of its network's prefix. Whoever looks from netboot must see the machine come from it.
    #[schemars(length(min = 4, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub address: String,
    /// By whom other networks are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), inner(length(min = 2, max = 45)), extend("x-kubernetes-list-type" = "set"))]
    pub dns: Vec<String>,
}

impl VirtualMedia {
    /// The address as the agent is told it.
    ///
    /// # Errors
    /// What of it is wrong, by the name of the kernel parameter.
    pub fn fixed(&self) -> Result<FixedAddress, LinkError> {
        FixedAddress::read(&self.address, self.gateway.as_deref(), self.dns.iter().map(String::as_str))
    }

    /// The URL of the medium for one act of this hardware's power driver.
    pub fn url(&self, hardware: &str, act: &str) -> String {
        format!("{}/boot/iso/{hardware}/{act}.iso", self.server.trim_end_matches('/'))
    }
}

/// An IPMI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IpmiPower {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._\-:]+$"))]
    pub host: String,
    /// UDP port.
    #[serde(default = "ipmi_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// `username` and `password`, in a Secret of the operator's namespace.
    pub credentials: LocalSecretName,
    /// How the session is protected.
    #[serde(default)]
    pub cipher_suite: CipherSuite,
    /// As what the user logs in. Less is better: an operator may switch.
    #[serde(default)]
    pub privilege: IpmiPrivilege,
}

fn ipmi_port() -> u16 {
    623
}

/// Cipher suites of RMCP+ (IPMI 2.0, table 22-20).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CipherSuite {
    /// 17: HMAC-SHA256 and AES-128. What a controller from after 2015 has.
    #[default]
    Suite17,
    /// 3: HMAC-SHA1 and AES-128, for older ones.
    Suite3,
}

/// Privilege levels of IPMI that can switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IpmiPrivilege {
    /// May switch, and choose the next boot.
    #[default]
    Operator,
    /// May do everything; some controllers want it for the choice of the next boot.
    Administrator,
}

/// What a service behind a webhook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WebhookCall {
    /// Switches on.
    On,
    /// Asks the system to shut down.
    ShutDown,
    /// Takes the power away.
    Off,
    /// Lets the machine boot anew.
    Cycle,
    /// Tells whether the machine is on.
    State,
    /// Lets it boot once from the network (PXE).
    BootNetwork,
    /// Lets it boot once by UEFI's HTTP boot.
    BootHttp,
    /// Lets it boot once from its disk.
    BootDisk,
    /// Lets it boot once from the attached medium.
    BootMedium,
    /// Attaches and detaches media.
    Media,
}

/// A service of anybody's own (the contract is in `docs/reference/power.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.certificateSha256) || self.url.startsWith('https://')").message("webhook.certificateSha256 wants a url that begins with https://"))]
pub struct WebhookPower {
    /// Where requests go. They are signed, and can be read on the way where it is plain HTTP.
    #[schemars(length(min = 8, max = 2048), regex(pattern = r"^https?://[^\s@]+$"))]
    pub url: String,
    /// What the service calls this machine.
    #[schemars(length(min = 1, max = 253))]
    pub machine: String,
    /// `key`, which both sides sign with (base64 of 24 to 64 bytes), in a Secret of the operator's namespace; `ca.crt` in it where an authority is to be believed.
    pub credentials: LocalSecretName,
    /// What the service does. Nothing else is asked of it.
    #[schemars(length(min = 1, max = 10), extend("x-kubernetes-list-type" = "set"))]
    pub calls: Vec<WebhookCall>,
    /// SHA-256 of the service's certificate, in hexadecimal with colons or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
}

/// What is behind a plug. Firmware must be set to start when the mains comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlugLoad {
    /// How many seconds without mains empty the machine's capacitors, so that it starts when the mains comes back.
    #[serde(default = "rest")]
    #[schemars(range(min = 1, max = 10))]
    pub rest_seconds: u8,
    /// From how many watts on the machine runs, where the plug measures. Without it nobody knows whether a machine runs behind a plug that is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub running_watts: Option<u16>,
}

fn rest() -> u8 {
    5
}

impl Default for PlugLoad {
    fn default() -> Self {
        Self {
            rest_seconds: rest(),
            running_watts: None,
        }
    }
}

/// A Shelly plug or relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShellyPower {
    /// Scheme, host and, where it is not the usual one, port. The password goes over the network as a digest only.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// Which of its switches; the first is 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 15))]
    pub switch: u8,
    /// `password`, in a Secret of the operator's namespace. Left out: the plug wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalSecretName>,
    /// What is behind it.
    #[serde(default)]
    pub load: PlugLoad,
}

/// A switch of Home Assistant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.address.startsWith('https://') || self.insecure").message("homeAssistant.address must begin with https://: over plain HTTP the token is readable by everybody on the way (insecure: true allows it)"))]
pub struct HomeAssistantPower {
    /// Scheme, host and, where it is not the usual one, port.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// The switch.
    #[schemars(regex(pattern = r"^switch\.[a-z0-9_]{1,200}$"))]
    pub entity: String,
    /// What measures it, in watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^sensor\.[a-z0-9_]{1,200}$"))]
    pub meter: Option<String>,
    /// `token` (a long-lived access token), in a Secret of the operator's namespace; `ca.crt` in it where the certificate is not named.
    pub credentials: LocalSecretName,
    /// SHA-256 of the certificate, in hexadecimal with colons or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
    /// Allows plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// What is behind it.
    #[serde(default)]
    pub load: PlugLoad,
}

/// Wake-on-LAN. The netboot replicas send a frame into the segments they serve; the operator sends datagrams to the addresses named here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.credentials) || size(self.to) > 0").message("wakeOnLan.credentials (a SecureOn password) wants an address in wakeOnLan.to: netboot, which sends frames, knows no passwords"))]
pub struct WakeOnLanPower {
    /// The interfaces that wake it. Left out: all that its agent found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(regex(pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$")), extend("x-kubernetes-list-type" = "set"))]
    pub macs: Vec<String>,
    /// Where the operator sends datagrams: the broadcast address of the machine's network (its routers must let it in), with a port if it is not 9. None: netboot's frames alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 2, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub to: Vec<String>,
    /// `password` (SecureOn: four or six bytes in hexadecimal), in a Secret of the operator's namespace, for interfaces that want one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalSecretName>,
}

/// Somebody who walks to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManualPower {
    /// What is said to the person who is asked to switch it: where it stands, and how it is switched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub instructions: String,
}

/// Intel AMT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.address.startsWith('https://') || self.insecure").message("amt.address must begin with https://: plain HTTP shows what is done to everybody on the way (insecure: true allows it; the password is a digest)"))]
pub struct AmtPower {
    /// Scheme, host and port: 16993 with `https`, 16992 with `http`.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// `username` and `password`, in a Secret of the operator's namespace; `ca.crt` in it where the certificate is not named.
    pub credentials: LocalSecretName,
    /// SHA-256 of the certificate, in hexadecimal with colons or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
    /// Allows plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// A plug or relay with Tasmota's firmware. It takes its password in the URL of each command: keep it in a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.credentials) || self.address.startsWith('https://') || self.insecure").message("tasmota.address must begin with https:// where there is a password: over plain HTTP it is readable by everybody on the way (insecure: true allows it)"))]
pub struct TasmotaPower {
    /// Scheme, host and, where it is not the usual one, port.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// Which of its relays; the first is 1.
    #[serde(default = "first")]
    #[schemars(range(min = 1, max = 32))]
    pub relay: u8,
    /// `password`, in a Secret of the operator's namespace. Left out: the device wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalSecretName>,
    /// Allows a password over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// What is behind it.
    #[serde(default)]
    pub load: PlugLoad,
}

fn first() -> u8 {
    1
}

/// Makes of PDUs whose outlets are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PduMake {
    /// APC MasterSwitch and older switched rack PDUs.
    ApcMasterSwitch,
    /// APC switched rack PDUs, AP78xx and AP79xx.
    ApcRackPdu,
    /// APC rack PDUs of the second generation, AP84xx to AP89xx.
    ApcRackPdu2,
    /// Raritan PX2, PX3 and later.
    Raritan,
}

/// With what a message of SNMP version 3 is authenticated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SnmpAuthentication {
    /// HMAC-SHA-96 (RFC 3414).
    Sha1,
    /// HMAC-192-SHA-256 (RFC 7860).
    #[default]
    Sha256,
}

/// Where an outlet of another make is switched and looked at: OIDs with the outlet's index, and the numbers that stand there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutletCells {
    /// The OID that switches.
    #[schemars(length(max = 256), regex(pattern = r"^[0-9]+(\.[0-9]+){2,}$"))]
    pub command: String,
    /// What is written to switch on.
    pub on: i32,
    /// What is written to switch off.
    pub off: i32,
    /// What is written to switch off and, after a time that the PDU knows, on. Left out: that is done in two steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cycle: Option<i32>,
    /// The OID that shows the state.
    #[schemars(length(max = 256), regex(pattern = r"^[0-9]+(\.[0-9]+){2,}$"))]
    pub state: String,
    /// What it shows when the outlet is on.
    pub shows_on: i32,
    /// What it shows when the outlet is off.
    pub shows_off: i32,
    /// The OID that shows what is drawn, in watts, where outlets are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = r"^[0-9]+(\.[0-9]+){2,}$"))]
    pub watts: Option<String>,
}

/// An outlet of a PDU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.make) != has(self.cells)").message("pdu names its make, or the outlet's cells by hand"))]
#[x_kube(validation = Rule::new("has(self.make) == has(self.outlet)").message("pdu.outlet is the number of the outlet, with pdu.make: cells have it in their OIDs"))]
pub struct PduPower {
    /// Host name or IP address.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._\-:]+$"))]
    pub host: String,
    /// UDP port.
    #[serde(default = "snmp_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// A make that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub make: Option<PduMake>,
    /// Which outlet; the first is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub outlet: Option<u32>,
    /// Which PDU of a chain, for makes that count outlets anew in each.
    #[serde(default = "first_unit")]
    #[schemars(range(min = 1, max = 64))]
    pub unit: u32,
    /// Any other make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<OutletCells>,
    /// A Secret of the operator's namespace: `community` for version 2c, which anybody on the way can read; or `username`, `password` and `privacy` (8 bytes or more each) for version 3 with AES.
    pub credentials: LocalSecretName,
    /// With version 3.
    #[serde(default)]
    pub authentication: SnmpAuthentication,
    /// What is behind it.
    #[serde(default)]
    pub load: PlugLoad,
}

fn snmp_port() -> u16 {
    161
}

fn first_unit() -> u32 {
    1
}

/// A virtual machine of libvirt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.socket) != has(self.host)").message("libvirt names a socket on the operator's host, or a host that is reached by TLS"))]
#[x_kube(validation = Rule::new("has(self.host) == has(self.credentials)").message("libvirt.credentials (tls.crt, tls.key and ca.crt) belong to libvirt.host"))]
pub struct LibvirtPower {
    /// The daemon's Unix socket on the operator's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 107), regex(pattern = "^/"))]
    pub socket: Option<String>,
    /// The daemon's host, by TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._\-:]+$"))]
    pub host: Option<String>,
    /// TCP port.
    #[serde(default = "libvirt_port")]
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The driver behind it, as libvirt writes it without a host.
    #[serde(default = "libvirt_uri")]
    #[schemars(length(max = 253), regex(pattern = "^[a-z0-9]+:///.+$"))]
    pub uri: String,
    /// The machine: its UUID, or its name.
    #[schemars(length(min = 1, max = 253))]
    pub domain: String,
    /// `tls.crt`, `tls.key` and `ca.crt`, in a Secret of the operator's namespace: who we are there, and whom to believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LocalSecretName>,
}

fn libvirt_port() -> u16 {
    16_514
}

fn libvirt_uri() -> String {
    "qemu:///system".to_owned()
}

/// A virtual machine of Proxmox VE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.address.startsWith('https://') || self.insecure").message("proxmox.address must begin with https://: over plain HTTP the token is readable by everybody on the way (insecure: true allows it)"))]
pub struct ProxmoxPower {
    /// Scheme, host and port: `https://pve.example:8006`.
    #[schemars(length(min = 8, max = 253), regex(pattern = r"^https?://[A-Za-z0-9._\-\[\]:]+/?$"))]
    pub address: String,
    /// The node that the machine is on.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9-]+$"))]
    pub node: String,
    /// The machine's number (VMID).
    #[schemars(range(min = 100, max = 999_999_999))]
    pub machine: u32,
    /// Name of the API token: `kube-baremetal@pve!power`. It needs `VM.PowerMgmt` and `VM.Audit` on the machine.
    #[schemars(length(max = 128), regex(pattern = r"^\S+@[A-Za-z0-9._-]+![A-Za-z0-9._-]+$"))]
    pub token: String,
    /// `token` (the token's secret), in a Secret of the operator's namespace; `ca.crt` in it where the certificate is not named.
    pub credentials: LocalSecretName,
    /// SHA-256 of the certificate, in hexadecimal with colons or without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$"))]
    pub certificate_sha256: Option<String>,
    /// Allows plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}
