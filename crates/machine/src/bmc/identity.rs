//! Who the controller is: Get Device ID (20.1), Get System GUID (22.14), and where it does not know that, Get Device GUID (20.8).

use agent_protocol::{bmc::Bmc, identity::SystemUuid};
use uuid::Uuid;

use super::{APPLICATION, Asking, BmcError, Request, exactly};

const DEVICE_ID: &str = "Get Device ID";
const SYSTEM_GUID: &str = "Get System GUID";
const DEVICE_GUID: &str = "Get Device GUID";

/// What Get Device ID says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceId {
    /// Major and minor version of the firmware; the latter is two decimal digits.
    pub firmware: (u8, u8),
    /// Major and minor version of IPMI.
    pub ipmi: (u8, u8),
    /// Private enterprise number of IANA; nothing where it is not given.
    pub manufacturer: Option<u32>,
    /// Product number of the manufacturer.
    pub product: u16,
}

impl DeviceId {
    /// Reads the answer's data (table 20-2).
    ///
    /// # Errors
    /// [`BmcError::Short`].
    pub fn parse(data: &[u8]) -> Result<Self, BmcError> {
        let [_, _, major, minor, ipmi, _, m0, m1, m2, p0, p1] = *exactly::<11>(DEVICE_ID, data)?;
        // Twenty bits; all clear and all set mean that it is not given.
        let manufacturer = u32::from_le_bytes([m0, m1, m2 & 0x0f, 0]);
        Ok(Self {
            firmware: (major & 0x7f, decimal(minor)),
            // The digits stand the wrong way round: 51h is 1.5.
            ipmi: (ipmi & 0x0f, ipmi >> 4),
            manufacturer: Some(manufacturer).filter(|m| !matches!(m, 0 | 0xf_ffff)),
            product: u16::from_le_bytes([p0, p1]),
        })
    }
}

/// Two decimal digits in one byte; some firmware writes the number itself.
fn decimal(byte: u8) -> u8 {
    let (high, low) = (byte >> 4, byte & 0x0f);
    if high < 10 && low < 10 { high * 10 + low } else { byte }
}

/// The GUID in the order that people read. The specification has the last byte first (20.8), many controllers send it as SMBIOS has it, some as it is written; what equals the system's
/// UUID is believed, then the first order in which it says that it was made as RFC 9562 asks.
pub fn guid(data: &[u8; 16], system: Option<SystemUuid>) -> Option<Uuid> {
    if data.iter().all(|b| *b == data[0]) {
        return None;
    }
    let mut turned = *data;
    turned.reverse();
    let readings = [Uuid::from_bytes(turned), Uuid::from_bytes_le(*data), Uuid::from_bytes(*data)];
    let made = |uuid: &Uuid| matches!(uuid.get_version_num(), 1..=8) && uuid.get_variant() == uuid::Variant::RFC4122;
    let same = readings.iter().find(|uuid| system.is_some_and(|s| s.0 == *uuid.as_bytes()));
    same.or_else(|| readings.iter().find(|uuid| made(uuid)))
        .or(readings.first())
        .copied()
}

pub(super) fn read(asking: &mut Asking<'_>, system: Option<SystemUuid>, found: &mut Bmc) -> Result<(), BmcError> {
    let id = DeviceId::parse(&asking.ask(&Request::new(DEVICE_ID, APPLICATION, 0x01, []))?)?;
    found.manufacturer_id = id.manufacturer;
    found.product_id = Some(id.product.into());
    found.firmware = Some(format!("{}.{:02}", id.firmware.0, id.firmware.1));
    found.ipmi_version = Some(format!("{}.{}", id.ipmi.0, id.ipmi.1));
    let mut answer = asking.ask_if_there(&Request::new(SYSTEM_GUID, APPLICATION, 0x37, []))?;
    if answer.is_none() {
        answer = asking.ask_if_there(&Request::new(DEVICE_GUID, APPLICATION, 0x08, []))?;
    }
    found.guid = answer
        .and_then(|data| guid(data.first_chunk()?, system))
        .map(|uuid| uuid.to_string());
    Ok(())
}
