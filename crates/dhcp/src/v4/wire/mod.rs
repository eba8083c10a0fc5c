//! DHCPv4 packets: read where they lie ([`Packet`]), written into a buffer that is used again ([`Encoder`]).
//!
//! RFC 2131 and 2132, with long options (RFC 3396), overloaded fields, relay agent information (RFC 3046, 3527, 5107), PXE's options (RFC 4578,
//! PXE 2.1), user classes (RFC 3004) and subnet selection (RFC 3011).
//!
//! Any bytes are read without a panic and in time linear to their number. What a packet means is not decided here.

pub mod code;
mod encode;
mod packet;
mod pxe;
mod relay;

pub use code::{CLIENT_PORT, MessageType, PXE_PORT, SERVER_PORT};
pub use encode::{Encoder, Head};
pub use packet::{MAX_PACKET, Packet, PacketError, UserClasses};
pub use pxe::{BootItem, PxeVendor, USE_BOOT_FILE};
pub use relay::RelayInfo;
