//! Which firmware asks, and what it is given to boot.
//!
//! | asks | by | is given |
//! |---|---|---|
//! | BIOS | TFTP | iPXE for the ROM's own network driver |
//! | UEFI (x86-64, IA32, arm64) | TFTP | iPXE, or shim where Secure Boot is wanted |
//! | UEFI HTTP boot (the same) | HTTP | the same files |
//! | Raspberry Pi 4, 5 | TFTP | the address of the server and the menu entry that its boot loader looks for; it chooses its files itself |
//! | iPXE | HTTP | the script, never a loader |
//!
//! Each row may be replaced for a network and for one machine ([`Tables`]). A [`BootTable`] cannot say what a firmware cannot do, nor give iPXE a loader
//! again: that would be a loop. Texts in it are of plain characters, so that nothing in them means anything to a script.
//!
//! A request does not tell whether Secure Boot is on. Shim boots either way, so a network that has such machines gives it to all.

use std::{fmt, net::Ipv4Addr};

/// What asks for something to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// x86 BIOS (type 0).
    Bios,
    /// UEFI on x86-64 (type 7, and 9 by the letter of RFC 4578, whose two numbers were swapped in practice).
    UefiX64,
    /// UEFI on 32-bit x86 (type 6).
    UefiIa32,
    /// UEFI on arm64 (type 11).
    UefiArm64,
    /// UEFI HTTP boot on x86-64 (type 16).
    HttpX64,
    /// UEFI HTTP boot on 32-bit x86 (type 15).
    HttpIa32,
    /// UEFI HTTP boot on arm64 (type 19).
    HttpArm64,
    /// The boot loader of a Raspberry Pi 4 or 5, which says that it is a BIOS (or type 41).
    RaspberryPi,
    /// iPXE, on whatever.
    Ipxe,
    /// Another type of IANA's list of processor architectures.
    Other(u16),
}

/// Beginning of the vendor class of whoever wants to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootClass {
    /// `PXEClient`: TFTP.
    Pxe,
    /// `HTTPClient`: HTTP.
    Http,
}

impl BootClass {
    /// From the text of option 60, or of one class in DHCPv6's option 16.
    pub fn of(vendor_class: &[u8]) -> Option<Self> {
        [Self::Pxe, Self::Http]
            .into_iter()
            .find(|class| vendor_class.starts_with(class.name()))
    }

    /// The text, which the answer has to carry.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Pxe => b"PXEClient",
            Self::Http => b"HTTPClient",
        }
    }
}

impl Firmware {
    /// From the class and the architecture type, for everybody but iPXE and Raspberry Pi. The class decides about the protocol: firmware is seen that
    /// sends `HTTPClient` with the type of its TFTP sibling, and the other way round.
    pub fn new(class: BootClass, architecture: u16) -> Self {
        match (class, architecture) {
            (BootClass::Pxe, 0) => Self::Bios,
            (BootClass::Pxe, 6 | 15) => Self::UefiIa32,
            (BootClass::Pxe, 7 | 9 | 16) => Self::UefiX64,
            (BootClass::Pxe, 11 | 19) => Self::UefiArm64,
            (BootClass::Pxe, 41) => Self::RaspberryPi,
            (BootClass::Http, 6 | 15) => Self::HttpIa32,
            (BootClass::Http, 7 | 9 | 16) => Self::HttpX64,
            (BootClass::Http, 11 | 19) => Self::HttpArm64,
            (_, other) => Self::Other(other),
        }
    }

    /// Whether it is a UEFI that boots by TFTP: the strict ones among ProxyDHCP's clients.
    pub fn is_uefi_pxe(self) -> bool {
        matches!(self, Self::UefiX64 | Self::UefiIa32 | Self::UefiArm64)
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "BIOS",
            Self::UefiX64 => "UEFI x86-64",
            Self::UefiIa32 => "UEFI IA32",
            Self::UefiArm64 => "UEFI arm64",
            Self::HttpX64 => "UEFI HTTP boot x86-64",
            Self::HttpIa32 => "UEFI HTTP boot IA32",
            Self::HttpArm64 => "UEFI HTTP boot arm64",
            Self::RaspberryPi => "Raspberry Pi",
            Self::Ipxe => "iPXE",
            Self::Other(number) => return write!(f, "architecture type {number}"),
        })
    }
}

/// `Arch:00007` in a vendor class: the architecture of those who send no option 93.
pub(crate) fn architecture_in_class(class: &[u8]) -> Option<u16> {
    const BEFORE: &[u8] = b"Arch:";
    let at = class.windows(BEFORE.len()).position(|w| w == BEFORE)? + BEFORE.len();
    let digits = class.get(at..at + 5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A loader by TFTP from the boot server: its name, relative to the server's root.
    Tftp(Box<str>),
    /// A loader by TFTP from somebody else.
    TftpFrom(Ipv4Addr, Box<str>),
    /// A loader by HTTP: its whole URL.
    Http(Box<str>),
    /// An iPXE script: its whole URL.
    Script(Box<str>),
    /// The TFTP server alone, for the boot loader of a Raspberry Pi.
    RaspberryPi,
    /// Nothing: the machine is left alone.
    Nothing,
}

impl Boot {
    /// Where its TFTP is, if it comes by TFTP; `ours` is the boot server's.
    pub(crate) fn tftp_server(&self, ours: Ipv4Addr) -> Ipv4Addr {
        match self {
            Self::TftpFrom(server, _) => *server,
            Self::Tftp(_) | Self::Http(_) | Self::Script(_) | Self::RaspberryPi | Self::Nothing => ours,
        }
    }
}

/// Why a row cannot stand in a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The firmware cannot do that.
    #[error("{0} cannot be told to boot {1}")]
    Impossible(Firmware, &'static str),
    /// iPXE given a loader.
    #[error("{0:?} is a boot loader: iPXE would load it over and over; give the URL of a script")]
    Loop(Box<str>),
    /// A text that might mean something to somebody.
    #[error("{0:?} is no usable {1}: at most {2} characters, letters, digits and -._~/:?&=+,%[] only, no `..`")]
    Text(Box<str>, &'static str, usize),
}

/// Which loaders machines with UEFI get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaders {
    /// iPXE: fast, and refused by a firmware with Secure Boot on.
    Ipxe,
    /// Shim as `bootx64.efi`, which loads the signed GRUB beside it: boots whether Secure Boot is on or off.
    SecureBoot,
}

/// Names of the loaders in the root of the TFTP server and below the base URL.
pub mod file {
    /// iPXE for BIOS.
    pub const IPXE_BIOS: &str = "undionly.kpxe";
    /// iPXE for UEFI on x86-64.
    pub const IPXE_X64: &str = "ipxe-x64.efi";
    /// iPXE for UEFI on 32-bit x86.
    pub const IPXE_IA32: &str = "ipxe-ia32.efi";
    /// iPXE for UEFI on arm64.
    pub const IPXE_ARM64: &str = "ipxe-arm64.efi";
    /// Shim on x86-64.
    pub const SHIM_X64: &str = "bootx64.efi";
    /// Shim on 32-bit x86.
    pub const SHIM_IA32: &str = "bootia32.efi";
    /// Shim on arm64.
    pub const SHIM_ARM64: &str = "bootaa64.efi";
    /// The GRUB that shim loads from beside itself on x86-64; shim knows it by this name alone.
    pub const GRUB_X64: &str = "grubx64.efi";
    /// The GRUB that shim loads from beside itself on arm64.
    pub const GRUB_ARM64: &str = "grubaa64.efi";
}

/// Longest URL: one option's worth.
const MAX_URL: usize = 255;
/// Longest file: the header's field less its NUL.
const MAX_FILE: usize = 127;

/// One row per firmware, at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootTable {
    rows: Vec<(Firmware, Boot)>,
}

impl BootTable {
    /// The built-in table. `base` is the URL below which the loaders are found, without a slash at its end; `script` the URL of the iPXE script.
    pub fn built_in(loaders: Loaders, base: &str, script: &str) -> Result<Self, TableError> {
        let (x64, ia32, arm64) = match loaders {
            Loaders::Ipxe => (file::IPXE_X64, file::IPXE_IA32, file::IPXE_ARM64),
            Loaders::SecureBoot => (file::SHIM_X64, file::SHIM_IA32, file::SHIM_ARM64),
        };
        let mut table = Self::default();
        for (firmware, name) in [
            (Firmware::Bios, file::IPXE_BIOS),
            (Firmware::UefiX64, x64),
            (Firmware::UefiIa32, ia32),
            (Firmware::UefiArm64, arm64),
        ] {
            table.set(firmware, Boot::Tftp(name.into()))?;
        }
        for (firmware, name) in [(Firmware::HttpX64, x64), (Firmware::HttpIa32, ia32), (Firmware::HttpArm64, arm64)] {
            table.set(firmware, Boot::Http(format!("{base}/{name}").into()))?;
        }
        table.set(Firmware::RaspberryPi, Boot::RaspberryPi)?;
        table.set(Firmware::Ipxe, Boot::Script(script.into()))?;
        Ok(table)
    }

    /// Puts a row in, or replaces it.
    pub fn set(&mut self, firmware: Firmware, boot: Boot) -> Result<(), TableError> {
        match &boot {
            Boot::Tftp(name) | Boot::TftpFrom(_, name) => {
                if !plain(name, MAX_FILE) {
                    return Err(TableError::Text(name.clone(), "file name", MAX_FILE));
                }
            }
            Boot::Http(url) | Boot::Script(url) => {
                let http = url.starts_with("http://") || url.starts_with("https://");
                if !http || !plain(url, MAX_URL) {
                    return Err(TableError::Text(url.clone(), "http:// or https:// URL", MAX_URL));
                }
            }
            Boot::RaspberryPi | Boot::Nothing => {}
        }
        use Firmware::{Bios, HttpArm64, HttpIa32, HttpX64, Ipxe, Other, RaspberryPi, UefiArm64, UefiIa32, UefiX64};
        let possible = match (&boot, firmware) {
            (Boot::Tftp(name) | Boot::TftpFrom(_, name) | Boot::Http(name), Ipxe) => return Err(TableError::Loop(name.clone())),
            (Boot::Script(url), Ipxe) if is_loader(url) => return Err(TableError::Loop(url.clone())),
            (Boot::Nothing, _) => true,
            (Boot::Tftp(_) | Boot::TftpFrom(..), Bios | UefiX64 | UefiIa32 | UefiArm64 | Other(_)) => true,
            (Boot::Http(_), HttpX64 | HttpIa32 | HttpArm64 | Other(_)) => true,
            (Boot::Script(_), Ipxe) | (Boot::RaspberryPi, RaspberryPi) => true,
            (Boot::Tftp(_) | Boot::TftpFrom(..), HttpX64 | HttpIa32 | HttpArm64 | RaspberryPi) => false,
            (Boot::Http(_), Bios | UefiX64 | UefiIa32 | UefiArm64 | RaspberryPi) => false,
            (Boot::Script(_) | Boot::RaspberryPi, _) => false,
        };
        if !possible {
            let what = match boot {
                Boot::Tftp(_) | Boot::TftpFrom(..) => "a file over TFTP",
                Boot::Http(_) => "a file over HTTP",
                Boot::Script(_) => "an iPXE script",
                Boot::RaspberryPi => "as a Raspberry Pi does",
                Boot::Nothing => "nothing",
            };
            return Err(TableError::Impossible(firmware, what));
        }
        match self.rows.iter_mut().find(|(f, _)| *f == firmware) {
            Some((_, old)) => *old = boot,
            None => self.rows.push((firmware, boot)),
        }
        Ok(())
    }

    /// The row of a firmware.
    pub fn get(&self, firmware: Firmware) -> Option<&Boot> {
        self.rows.iter().find(|(f, _)| *f == firmware).map(|(_, boot)| boot)
    }
}

/// The tables that apply to a machine, the most particular first.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'t> {
    /// What was said about this machine.
    pub hardware: Option<&'t BootTable>,
    /// What was said about its network.
    pub network: Option<&'t BootTable>,
    /// What holds otherwise.
    pub built_in: &'t BootTable,
}

impl<'t> Tables<'t> {
    /// What this firmware is given; `None`: nothing, so it gets no boot options, and no answer at all from a proxy.
    pub fn choose(&self, firmware: Firmware) -> Option<&'t Boot> {
        [self.hardware, self.network, Some(self.built_in)]
            .into_iter()
            .flatten()
            .find_map(|table| table.get(firmware))
            .filter(|boot| **boot != Boot::Nothing)
    }

    /// All of them in one table. A row of [`Boot::Nothing`] stays: it says that nothing is given on purpose.
    pub fn merged(&self) -> BootTable {
        let mut rows: Vec<(Firmware, Boot)> = Vec::new();
        for table in [self.hardware, self.network, Some(self.built_in)].into_iter().flatten() {
            for (firmware, boot) in &table.rows {
                if !rows.iter().any(|(known, _)| known == firmware) {
                    rows.push((*firmware, boot.clone()));
                }
            }
        }
        BootTable { rows }
    }
}

fn plain(text: &str, longest: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:?&=+,%[]".contains(&b);
    !text.is_empty() && text.len() <= longest && text.bytes().all(allowed) && !text.contains("..")
}

fn is_loader(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    [".efi", ".pxe", ".kpxe", ".kkpxe", ".kkkpxe", ".0", ".lkrn"]
        .iter()
        .any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> BootTable {
        BootTable::built_in(Loaders::Ipxe, "http://10.0.0.1:8080/boot/loaders", "http://10.0.0.1:8080/boot/ipxe").unwrap()
    }

    #[test]
    fn every_firmware_gets_what_it_can_use() {
        let table = table();
        let tftp = |name: &str| Some(Boot::Tftp(name.into()));
        for (class, number, want) in [
            (BootClass::Pxe, 0, tftp("undionly.kpxe")),
            (BootClass::Pxe, 7, tftp("ipxe-x64.efi")),
            (BootClass::Pxe, 9, tftp("ipxe-x64.efi")),
            (BootClass::Pxe, 6, tftp("ipxe-ia32.efi")),
            (BootClass::Pxe, 11, tftp("ipxe-arm64.efi")),
            (BootClass::Pxe, 41, Some(Boot::RaspberryPi)),
            (
                BootClass::Http,
                16,
                Some(Boot::Http("http://10.0.0.1:8080/boot/loaders/ipxe-x64.efi".into())),
            ),
            (
                BootClass::Http,
                15,
                Some(Boot::Http("http://10.0.0.1:8080/boot/loaders/ipxe-ia32.efi".into())),
            ),
            (
                BootClass::Http,
                19,
                Some(Boot::Http("http://10.0.0.1:8080/boot/loaders/ipxe-arm64.efi".into())),
            ),
            // Seen: the class of HTTP with the type of TFTP.
            (
                BootClass::Http,
                7,
                Some(Boot::Http("http://10.0.0.1:8080/boot/loaders/ipxe-x64.efi".into())),
            ),
            (BootClass::Pxe, 2, None),
        ] {
            assert_eq!(table.get(Firmware::new(class, number)).cloned(), want, "{class:?} {number}");
        }
        assert_eq!(
            table.get(Firmware::Ipxe),
            Some(&Boot::Script("http://10.0.0.1:8080/boot/ipxe".into()))
        );
    }

    #[test]
    fn the_signed_chain_begins_with_shim() {
        let table = BootTable::built_in(Loaders::SecureBoot, "http://h/l", "http://h/boot/ipxe").unwrap();
        assert_eq!(table.get(Firmware::UefiX64), Some(&Boot::Tftp("bootx64.efi".into())));
        assert_eq!(table.get(Firmware::HttpX64), Some(&Boot::Http("http://h/l/bootx64.efi".into())));
        assert_eq!(
            table.get(Firmware::Bios),
            Some(&Boot::Tftp("undionly.kpxe".into())),
            "BIOS has no Secure Boot"
        );
    }

    #[test]
    fn the_most_particular_table_wins_and_may_say_nothing() {
        let built_in = table();
        let (mut network, mut hardware) = (BootTable::default(), BootTable::default());
        network.set(Firmware::Bios, Boot::Tftp("pxelinux.0".into())).unwrap();
        network.set(Firmware::Other(27), Boot::Tftp("riscv64.efi".into())).unwrap();
        hardware.set(Firmware::Bios, Boot::Nothing).unwrap();
        let tables = Tables {
            hardware: None,
            network: Some(&network),
            built_in: &built_in,
        };
        assert_eq!(tables.choose(Firmware::Bios), Some(&Boot::Tftp("pxelinux.0".into())));
        assert_eq!(tables.choose(Firmware::Other(27)), Some(&Boot::Tftp("riscv64.efi".into())));
        let tables = Tables {
            hardware: Some(&hardware),
            ..tables
        };
        assert_eq!(tables.choose(Firmware::Bios), None);
        assert_eq!(tables.choose(Firmware::UefiX64), Some(&Boot::Tftp("ipxe-x64.efi".into())));
    }

    #[test]
    fn loops_impossibilities_and_odd_texts_are_refused() {
        let mut table = table();
        for (firmware, boot) in [
            (Firmware::Ipxe, Boot::Tftp("ipxe-x64.efi".into())),
            (Firmware::Ipxe, Boot::TftpFrom(Ipv4Addr::LOCALHOST, "x".into())),
            (Firmware::HttpX64, Boot::TftpFrom(Ipv4Addr::LOCALHOST, "x.efi".into())),
            (Firmware::Bios, Boot::TftpFrom(Ipv4Addr::LOCALHOST, "a\nb".into())),
            (Firmware::Ipxe, Boot::Http("http://h/x".into())),
            (Firmware::Ipxe, Boot::Script("http://h/snponly.EFI?x=1".into())),
            (Firmware::Ipxe, Boot::Script("http://h/undionly.kpxe".into())),
            (Firmware::UefiX64, Boot::Script("http://h/boot/ipxe".into())),
            (Firmware::UefiX64, Boot::Http("http://h/bootx64.efi".into())),
            (Firmware::HttpX64, Boot::Tftp("bootx64.efi".into())),
            (Firmware::RaspberryPi, Boot::Tftp("start4.elf".into())),
            (Firmware::Bios, Boot::RaspberryPi),
            (Firmware::Bios, Boot::Tftp("../etc/passwd".into())),
            (Firmware::Bios, Boot::Tftp("a\nb".into())),
            (Firmware::Bios, Boot::Tftp("".into())),
            (Firmware::Bios, Boot::Tftp("x".repeat(128).into())),
            (Firmware::Ipxe, Boot::Script("http://h/${uuid}".into())),
            (Firmware::Ipxe, Boot::Script("tftp://h/boot".into())),
        ] {
            let before = table.clone();
            assert!(table.set(firmware, boot.clone()).is_err(), "{firmware} {boot:?}");
            assert_eq!(table, before);
        }
        table.set(Firmware::Ipxe, Boot::Script("http://h/boot/ipxe".into())).unwrap();
    }

    #[test]
    fn an_architecture_stands_in_the_class_too() {
        assert_eq!(architecture_in_class(b"PXEClient:Arch:00007:UNDI:003016"), Some(7));
        for none in ["PXEClient", "PXEClient:Arch:", "PXEClient:Arch:0000", "PXEClient:Arch:x0007:"] {
            assert_eq!(architecture_in_class(none.as_bytes()), None, "{none}");
        }
    }
}
