//! What a machine's firmware is given to boot, where that is not netboot's own choice.
//!
//! A row names one of netboot's own loaders or a URL, and nothing else: no option, no text of a packet. The URLs' characters mean nothing to any loader or script, and netboot checks them
//! once more before it sends them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most rows that can be told apart: one of each firmware.
pub const MAX_BOOT_LOADERS: usize = 9;

/// What one kind of firmware is given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.loader) != has(self.url)").message("give one of loader and url, and not both"))]
#[x_kube(validation = Rule::new("!has(self.loader) || self.loader != 'Signed' || self.firmware in ['UefiX64', 'UefiArm64', 'HttpX64', 'HttpArm64']").message("loader Signed is there for the firmware UefiX64, UefiArm64, HttpX64 and HttpArm64 only"))]
#[x_kube(validation = Rule::new("!has(self.loader) || self.loader != 'Ipxe' || !(self.firmware in ['Ipxe', 'RaspberryPi'])").message("loader Ipxe is not for the firmware Ipxe, which would load it over and over, nor for RaspberryPi, which cannot load it"))]
#[x_kube(validation = Rule::new("!has(self.url) || (self.url.startsWith('tftp://') ? self.firmware in ['Bios', 'UefiX64', 'UefiIa32', 'UefiArm64'] : self.firmware in ['HttpX64', 'HttpIa32', 'HttpArm64', 'Ipxe'])").message("url must be tftp:// for Bios, UefiX64, UefiIa32 and UefiArm64, http:// or https:// for HttpX64, HttpIa32, HttpArm64 and Ipxe, and there is none for RaspberryPi"))]
#[x_kube(validation = Rule::new("!has(self.url) || !self.url.startsWith('tftp://') || isIP(self.url.split('/')[2])").message("url must name the TFTP server by its IPv4 address: firmware looks up no names"))]
#[x_kube(validation = Rule::new("!has(self.url) || self.firmware != 'Ipxe' || !self.url.matches('[.](efi|EFI|k*pxe|0|lkrn)([?].*)?$')").message("url for Ipxe must be a script's: iPXE would load a boot loader over and over"))]
#[x_kube(validation = Rule::new("!has(self.url) || !self.url.contains('..')").message("url must not contain '..'"))]
pub struct BootLoader {
    /// What asks.
    pub firmware: FirmwareKind,
    /// One of netboot's own, or nothing at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<OwnLoader>,
    /// A boot loader somewhere else: `tftp://192.0.2.5/loader.efi`, or `http://` or `https://` for UEFI HTTP boot; for iPXE a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 255),
        regex(
            pattern = r"^(tftp://[0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}/[A-Za-z0-9._~/-]{1,127}|https?://[][A-Za-z0-9._~/:?&=+,%-]+)$"
        )
    )]
    pub url: Option<String>,
}

/// What asks for something to boot, as it says in DHCP (RFC 4578 and IANA's list of processor architectures).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FirmwareKind {
    /// x86 BIOS.
    Bios,
    /// UEFI on x86-64, by PXE.
    UefiX64,
    /// UEFI on 32-bit x86, by PXE.
    UefiIa32,
    /// UEFI on arm64, by PXE.
    UefiArm64,
    /// UEFI HTTP boot on x86-64.
    HttpX64,
    /// UEFI HTTP boot on 32-bit x86.
    HttpIa32,
    /// UEFI HTTP boot on arm64.
    HttpArm64,
    /// The boot loader of a Raspberry Pi 4 or 5.
    RaspberryPi,
    /// iPXE, from a card's ROM or loaded by one of the others.
    Ipxe,
}

/// What netboot has itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OwnLoader {
    /// iPXE: fast, and refused where Secure Boot is on.
    Ipxe,
    /// Shim and the signed GRUB: start whether Secure Boot is on or off.
    Signed,
    /// Nothing: netboot says nothing about booting to this firmware.
    Nothing,
}
