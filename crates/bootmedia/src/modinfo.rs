//! Reads the `.modinfo` section of a kernel module: what it depends on, which devices it drives, which firmware it asks for.
//!
//! The module comes out of a package that apt has verified, and is treated as untrusted all the same: every offset is checked, nothing is
//! allocated by a number from the file.

/// Why a file is not a kernel module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModinfoError {
    /// Not ELF, not 64-bit, or not little-endian.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// An offset points outside of the file.
    #[error("the ELF file is cut off or damaged")]
    Damaged,
    /// No `.modinfo`.
    #[error("the ELF file has no .modinfo section: not a kernel module")]
    NoModinfo,
}

/// What a module says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// Names of modules whose symbols it needs.
    pub depends: Vec<String>,
    /// Modules (or their aliases) to be loaded before, without which it works worse.
    pub softdep_pre: Vec<String>,
    /// Patterns of the devices it drives.
    pub aliases: Vec<String>,
    /// Firmware files it may ask for.
    pub firmware: Vec<String>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64, ModinfoError> {
    let end = at.checked_add(N).ok_or(ModinfoError::Damaged)?;
    let field = bytes.get(at..end).ok_or(ModinfoError::Damaged)?;
    Ok(field.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn slice(bytes: &[u8], at: u64, len: u64) -> Result<&[u8], ModinfoError> {
    let at = usize::try_from(at).map_err(|_| ModinfoError::Damaged)?;
    let len = usize::try_from(len).map_err(|_| ModinfoError::Damaged)?;
    let end = at.checked_add(len).ok_or(ModinfoError::Damaged)?;
    bytes.get(at..end).ok_or(ModinfoError::Damaged)
}

/// The contents of a section of an ELF64 little-endian file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<&'a [u8], ModinfoError> {
    if elf.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        return Err(ModinfoError::NotElf);
    }
    let table = number::<8>(elf, 0x28)?;
    let (width, count, names) = (number::<2>(elf, 0x3a)?, number::<2>(elf, 0x3c)?, number::<2>(elf, 0x3e)?);
    if width < 64 {
        return Err(ModinfoError::Damaged);
    }
    let header = |n: u64| -> Result<&[u8], ModinfoError> {
        let at = n
            .checked_mul(width)
            .and_then(|o| o.checked_add(table))
            .ok_or(ModinfoError::Damaged)?;
        slice(elf, at, 64)
    };
    let contents = |header: &[u8]| -> Result<&'a [u8], ModinfoError> { slice(elf, number::<8>(header, 0x18)?, number::<8>(header, 0x20)?) };
    let names = contents(header(names)?)?;
    for n in 0..count {
        let header = header(n)?;
        let name = usize::try_from(number::<4>(header, 0)?).map_err(|_| ModinfoError::Damaged)?;
        let name = names.get(name..).ok_or(ModinfoError::Damaged)?;
        if name.split(|b| *b == 0).next() == Some(wanted) {
            return contents(header);
        }
    }
    Err(ModinfoError::NoModinfo)
}

/// Reads an uncompressed module.
///
/// # Errors
/// [`ModinfoError`] when it is none.
pub fn parse(elf: &[u8]) -> Result<Modinfo, ModinfoError> {
    let mut info = Modinfo::default();
    for field in section(elf, b".modinfo")?.split(|b| *b == 0) {
        let Ok(field) = std::str::from_utf8(field) else { continue };
        let Some((key, value)) = field.split_once('=') else { continue };
        match key {
            "depends" => info
                .depends
                .extend(value.split(',').filter(|d| !d.is_empty()).map(module_index::normalize)),
            "alias" => info.aliases.push(value.to_owned()),
            "firmware" => info.firmware.push(value.to_owned()),
            "softdep" => info.softdep_pre.extend(softdep_pre(value)),
            _ => {}
        }
    }
    Ok(info)
}

/// The names after `pre:` and before `post:`, in `pre: a b post: c`.
fn softdep_pre(value: &str) -> Vec<String> {
    let mut before = false;
    let mut names = Vec::new();
    for word in value.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" | "platform:" => before = false,
            name if before => names.push(name.to_owned()),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The smallest ELF file with a `.modinfo` of these fields.
    pub(crate) fn module(fields: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = fields.iter().flat_map(|f| f.bytes().chain([0])).collect();
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let names_at = elf.len() as u64;
        elf.extend_from_slice(names);
        let modinfo_at = elf.len() as u64;
        elf.extend_from_slice(&modinfo);
        let table = elf.len() as u64;
        for (name, at, len) in [(0u32, 0, 0), (1, names_at, names.len()), (11, modinfo_at, modinfo.len())] {
            let mut header = [0u8; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&at.to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(0x3a, 64u16), (0x3c, 3), (0x3e, 1)] {
            elf[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        elf
    }

    #[test]
    fn a_module_says_what_it_needs_and_drives() {
        let elf = module(&[
            "license=GPL",
            "alias=pci:v00008086d*",
            "alias=fs-x",
            "depends=a-b,c",
            "softdep=pre: crc32c post: z",
            "firmware=bnx2/x.fw",
        ]);
        let want = Modinfo {
            depends: vec!["a_b".to_owned(), "c".to_owned()],
            softdep_pre: vec!["crc32c".to_owned()],
            aliases: vec!["pci:v00008086d*".to_owned(), "fs-x".to_owned()],
            firmware: vec!["bnx2/x.fw".to_owned()],
        };
        assert_eq!(parse(&elf).unwrap(), want);
        assert_eq!(parse(b"hello"), Err(ModinfoError::NotElf));
        assert_eq!(parse(&elf[..elf.len() - 1]), Err(ModinfoError::Damaged));
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut elf = module(&["depends=a", "alias=b"]);
            let at = at % elf.len();
            elf[at] = byte;
            parse(&elf).ok();
            parse(&elf[..cut.min(elf.len())]).ok();
        }
    }
}
