//! Numbers of the protocol: option codes and message types, by their names in the RFCs.

/// UDP port of servers and relay agents (RFC 2131, 4.1).
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients (RFC 2131, 4.1).
pub const CLIENT_PORT: u16 = 68;
/// UDP port on which a ProxyDHCP service is asked once more, by unicast (PXE 2.1, 2.2.2).
pub const PXE_PORT: u16 = 4011;

/// Codes of the options that this crate reads or writes.
pub mod option {
    /// Padding, without length (RFC 2132, 3.1).
    pub const PAD: u8 = 0;
    /// Subnet mask (RFC 2132, 3.3).
    pub const SUBNET_MASK: u8 = 1;
    /// Routers (RFC 2132, 3.5).
    pub const ROUTER: u8 = 3;
    /// Name servers (RFC 2132, 3.8).
    pub const DNS: u8 = 6;
    /// Domain name (RFC 2132, 3.17).
    pub const DOMAIN_NAME: u8 = 15;
    /// MTU of the interface (RFC 2132, 5.1).
    pub const MTU: u8 = 26;
    /// Time servers (RFC 2132, 8.3).
    pub const NTP: u8 = 42;
    /// Vendor-specific information (RFC 2132, 8.4); with a PXE client the suboptions of PXE 2.1.
    pub const VENDOR: u8 = 43;
    /// Address that is asked for (RFC 2132, 9.1).
    pub const REQUESTED_ADDRESS: u8 = 50;
    /// Lease time in seconds (RFC 2132, 9.2).
    pub const LEASE_TIME: u8 = 51;
    /// Which header fields hold options (RFC 2132, 9.3).
    pub const OVERLOAD: u8 = 52;
    /// Message type (RFC 2132, 9.6).
    pub const MESSAGE_TYPE: u8 = 53;
    /// Server identifier (RFC 2132, 9.7).
    pub const SERVER_ID: u8 = 54;
    /// Codes that the client would like to have (RFC 2132, 9.8).
    pub const PARAMETER_LIST: u8 = 55;
    /// Text for people (RFC 2132, 9.9).
    pub const MESSAGE: u8 = 56;
    /// Longest message that is accepted, in bytes (RFC 2132, 9.10).
    pub const MAX_SIZE: u8 = 57;
    /// T1, in seconds (RFC 2132, 9.11).
    pub const RENEWAL: u8 = 58;
    /// T2, in seconds (RFC 2132, 9.12).
    pub const REBINDING: u8 = 59;
    /// Vendor class (RFC 2132, 9.13).
    pub const VENDOR_CLASS: u8 = 60;
    /// Client identifier (RFC 2132, 9.14; RFC 4361).
    pub const CLIENT_ID: u8 = 61;
    /// TFTP server's name (RFC 2132, 9.4).
    pub const TFTP_SERVER: u8 = 66;
    /// Boot file (RFC 2132, 9.5).
    pub const BOOT_FILE: u8 = 67;
    /// User class (RFC 3004).
    pub const USER_CLASS: u8 = 77;
    /// Relay agent information (RFC 3046).
    pub const RELAY_AGENT: u8 = 82;
    /// Architecture of the client system (RFC 4578, 2.1).
    pub const ARCHITECTURE: u8 = 93;
    /// UUID of the client machine (RFC 4578, 2.3).
    pub const MACHINE_ID: u8 = 97;
    /// Subnet selection (RFC 3011).
    pub const SUBNET_SELECTION: u8 = 118;
    /// Classless static routes (RFC 3442).
    pub const STATIC_ROUTES: u8 = 121;
    /// Options of Etherboot, gPXE and iPXE, encapsulated.
    pub const IPXE: u8 = 175;
    /// End of the options, without length (RFC 2132, 3.2).
    pub const END: u8 = 255;
}

/// Message types of RFC 2131. Others exist (leasequery, forcerenew) and are none of a server's business here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// A client looks for servers.
    Discover = 1,
    /// A server offers an address, or a proxy boot parameters.
    Offer = 2,
    /// A client takes an offer, verifies, renews or rebinds; or asks a boot server.
    Request = 3,
    /// The address is in use already, says the client.
    Decline = 4,
    /// The server agrees.
    Ack = 5,
    /// The server refuses: the client starts anew.
    Nak = 6,
    /// The client gives its address back.
    Release = 7,
    /// The client has an address and asks for parameters only.
    Inform = 8,
}

impl MessageType {
    /// By its number in option 53.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            _ => return None,
        })
    }
}
