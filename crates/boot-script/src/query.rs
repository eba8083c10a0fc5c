//! The parameters of a boot request, as types.

use agent_protocol::{
    architecture::Architecture,
    identity::{MacAddress, SystemUuid},
};

/// What iPXE runs on (its `${platform}`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// A BIOS.
    Bios,
    /// UEFI.
    Efi,
    /// Not said, or something we do not know.
    Other,
}

/// CPU architecture iPXE was built for (its `${buildarch}`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildArch {
    /// 32-bit x86.
    I386,
    /// 64-bit x86.
    X86_64,
    /// 32-bit ARM.
    Arm32,
    /// 64-bit ARM.
    Arm64,
    /// Not said, or something we do not know.
    Other,
}

impl BuildArch {
    /// As iPXE says it; empty for [`Self::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::I386 => "i386",
            Self::X86_64 => "x86_64",
            Self::Arm32 => "arm32",
            Self::Arm64 => "arm64",
            Self::Other => "",
        }
    }

    /// How UEFI loaders of this architecture end (UEFI 2.10, table 3-2). Who does not say what it is is taken for the most common.
    pub fn efi_suffix(self) -> &'static str {
        match self {
            Self::Arm64 => "aa64",
            Self::Arm32 => "arm",
            Self::I386 => "ia32",
            Self::X86_64 | Self::Other => "x64",
        }
    }
}

impl Platform {
    /// As iPXE says it; empty for [`Self::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "pcbios",
            Self::Efi => "efi",
            Self::Other => "",
        }
    }
}

/// A boot request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootRequest {
    /// From SMBIOS, where the machine has one.
    pub uuid: Option<SystemUuid>,
    /// Of the interface that it boots from.
    pub mac: MacAddress,
    /// Its firmware.
    pub platform: Platform,
    /// Its architecture, by what its loader was built for.
    pub buildarch: BuildArch,
}

/// What is wrong with a boot request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// More than any loader sends.
    #[error("the query has more than {MAX_QUERY} bytes")]
    TooLong,
    /// Which of the two is meant nobody knows.
    #[error("the parameter {0} is there twice")]
    Twice(&'static str),
    /// Nothing can be said without it.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// It is not of its type.
    #[error("the parameter {0} is malformed")]
    Malformed(&'static str),
}

const MAX_QUERY: usize = 1024;

fn once<'a>(slot: &mut Option<&'a str>, name: &'static str, value: &'a str) -> Result<(), QueryError> {
    match slot.replace(value) {
        Some(_) => Err(QueryError::Twice(name)),
        None => Ok(()),
    }
}

impl BootRequest {
    /// Whose boot media the machine can run. iPXE for BIOS calls itself `i386` on every x86 machine, and whoever says nothing but BIOS is one.
    pub fn architecture(&self) -> Option<Architecture> {
        match (self.buildarch, self.platform) {
            (BuildArch::X86_64 | BuildArch::I386, _) | (BuildArch::Other, Platform::Bios) => Some(Architecture::Amd64),
            (BuildArch::Arm64, _) => Some(Architecture::Arm64),
            (BuildArch::Arm32, _) | (BuildArch::Other, Platform::Efi | Platform::Other) => None,
        }
    }

    /// Parameters beyond those known are ignored.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        if query.len() > MAX_QUERY {
            return Err(QueryError::TooLong);
        }
        let (mut uuid, mut mac, mut platform, mut buildarch) = (None, None, None, None);
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "uuid" => once(&mut uuid, "uuid", value)?,
                "mac" => once(&mut mac, "mac", value)?,
                "platform" => once(&mut platform, "platform", value)?,
                "buildarch" => once(&mut buildarch, "buildarch", value)?,
                _ => {}
            }
        }
        // iPXE encodes the colons of ${mac} where it is asked for the plain form.
        let mac = mac.ok_or(QueryError::Missing("mac"))?.replace("%3A", ":").replace("%3a", ":");
        let mac: MacAddress = mac.parse().map_err(|_| QueryError::Malformed("mac"))?;
        if !mac.is_usable() {
            return Err(QueryError::Malformed("mac"));
        }
        // A machine without SMBIOS has no UUID; iPXE then sends nothing.
        let uuid = match uuid {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| QueryError::Malformed("uuid"))?),
        };
        Ok(Self {
            uuid,
            mac,
            platform: match platform {
                Some("pcbios") => Platform::Bios,
                Some("efi") => Platform::Efi,
                _ => Platform::Other,
            },
            buildarch: match buildarch {
                Some("i386") => BuildArch::I386,
                Some("x86_64") => BuildArch::X86_64,
                Some("arm32") => BuildArch::Arm32,
                Some("arm64") => BuildArch::Arm64,
                _ => BuildArch::Other,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_for_the_processor_that_asks() {
        let of = |query: &str| {
            BootRequest::parse(&format!("mac=52-54-00-12-34-56&{query}"))
                .unwrap()
                .architecture()
        };
        for (query, want) in [
            ("platform=pcbios&buildarch=i386", Some(Architecture::Amd64)),
            ("platform=pcbios&buildarch=x86_64", Some(Architecture::Amd64)),
            ("platform=pcbios", Some(Architecture::Amd64)),
            ("platform=efi&buildarch=x86_64", Some(Architecture::Amd64)),
            ("platform=efi&buildarch=arm64", Some(Architecture::Arm64)),
            ("platform=efi&buildarch=arm32", None),
            ("platform=efi&buildarch=arm", None),
            ("platform=efi&buildarch=riscv64", None),
            ("platform=efi", None),
        ] {
            assert_eq!(of(query), want, "{query}");
        }
    }

    #[test]
    fn what_ipxe_sends_is_read_and_the_rest_is_refused() {
        let good = "uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05&mac=52-54-00-12-34-56&platform=efi&buildarch=x86_64";
        let request = BootRequest::parse(good).unwrap();
        assert_eq!((request.platform, request.buildarch), (Platform::Efi, BuildArch::X86_64));
        assert_eq!(request.mac.to_string(), "52:54:00:12:34:56");
        assert_eq!(BootRequest::parse("uuid=&mac=52%3A54%3A00%3A12%3A34%3A56").unwrap().uuid, None);
        for (bad, error) in [
            ("uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05", QueryError::Missing("mac")),
            ("mac=52-54-00-12-34-56&mac=52-54-00-12-34-57", QueryError::Twice("mac")),
            ("mac=${net0/mac}", QueryError::Malformed("mac")),
            ("mac=ff-ff-ff-ff-ff-ff", QueryError::Malformed("mac")),
            ("mac=52-54-00-12-34-56&uuid=x", QueryError::Malformed("uuid")),
        ] {
            assert_eq!(BootRequest::parse(bad), Err(error), "{bad}");
        }
        assert_eq!(BootRequest::parse(&"a".repeat(2000)), Err(QueryError::TooLong));
    }
}
