//! `EFI_LOAD_OPTION` (UEFI 2.10, 3.1.3): the value of a `Boot####` variable.
//!
//! Parses any option; understands of its device path the partition (`HD(...)` by GUID) and the file. Writes options of that one shape.

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption {
    /// Bit 0: active.
    pub attributes: u32,
    /// What firmware's menu shows.
    pub description: String,
    /// The partition, when the path names one by GUID.
    pub partition: Option<PartitionPath>,
    /// The file, `\EFI\debian\shimx64.efi`, when the path names one.
    pub file: Option<String>,
}

/// `HD(number,GPT,guid,first,size)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionPath {
    /// Partition number, from one.
    pub number: u32,
    /// First sector.
    pub first_lba: u64,
    /// Number of sectors.
    pub sectors: u64,
    /// Partition GUID as stored.
    pub guid: [u8; 16],
}

/// Why bytes are not a load option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoadOptionError {
    /// Ends too early.
    #[error("the boot entry ends in the middle of its {0}")]
    Short(&'static str),
    /// A node of impossible length.
    #[error("the boot entry's device path has a node of {0} bytes, at least 4 are needed")]
    Node(u16),
}

const MEDIA: u8 = 4;
const HARD_DRIVE: u8 = 1;
const FILE_PATH: u8 = 4;
const END: [u8; 4] = [0x7f, 0xff, 4, 0];
const GPT: [u8; 2] = [2, 2];

impl LoadOption {
    /// Reads an option.
    ///
    /// # Errors
    /// [`LoadOptionError`] for bytes that end early or contradict themselves.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadOptionError> {
        let (attributes, rest) = bytes.split_first_chunk::<4>().ok_or(LoadOptionError::Short("attributes"))?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(LoadOptionError::Short("path length"))?;
        let units: Vec<u16> = rest
            .chunks_exact(2)
            .map(|c| u16::from_le_bytes([c[0], c[1]]))
            .take_while(|u| *u != 0)
            .collect();
        let path_at = (units.len() + 1) * 2;
        let path = rest
            .get(path_at..path_at + usize::from(u16::from_le_bytes(*length)))
            .ok_or(LoadOptionError::Short("description or device path"))?;
        let mut option = Self {
            attributes: u32::from_le_bytes(*attributes),
            description: String::from_utf16_lossy(&units),
            partition: None,
            file: None,
        };
        option.read_path(path)?;
        Ok(option)
    }

    fn read_path(&mut self, mut path: &[u8]) -> Result<(), LoadOptionError> {
        while let Some((head, _)) = path.split_first_chunk::<4>() {
            let length = u16::from_le_bytes([head[2], head[3]]);
            if length < 4 {
                return Err(LoadOptionError::Node(length));
            }
            let node = path.get(4..usize::from(length)).ok_or(LoadOptionError::Short("device path"))?;
            match (head[0], head[1]) {
                (0x7f, 0xff) => return Ok(()),
                (MEDIA, HARD_DRIVE) if node.len() >= 38 && node[36..38] == GPT => self.partition = partition(node),
                (MEDIA, FILE_PATH) => {
                    let units: Vec<u16> = node
                        .chunks_exact(2)
                        .map(|c| u16::from_le_bytes([c[0], c[1]]))
                        .take_while(|u| *u != 0)
                        .collect();
                    self.file = Some(String::from_utf16_lossy(&units));
                }
                _ => {}
            }
            path = &path[usize::from(length)..];
        }
        if path.is_empty() {
            Ok(())
        } else {
            Err(LoadOptionError::Short("device path"))
        }
    }

    /// The bytes of the option.
    pub fn encode(&self) -> Vec<u8> {
        let mut path = Vec::new();
        if let Some(p) = &self.partition {
            path.extend_from_slice(&[MEDIA, HARD_DRIVE, 42, 0]);
            path.extend_from_slice(&p.number.to_le_bytes());
            path.extend_from_slice(&p.first_lba.to_le_bytes());
            path.extend_from_slice(&p.sectors.to_le_bytes());
            path.extend_from_slice(&p.guid);
            path.extend_from_slice(&GPT);
        }
        if let Some(file) = &self.file {
            let text = utf16(file);
            path.extend_from_slice(&[MEDIA, FILE_PATH]);
            // A FAT path has at most 255 units; `clip` keeps longer ones from wrapping.
            path.extend_from_slice(&(text.len() as u16 + 4).to_le_bytes());
            path.extend_from_slice(&text);
        }
        path.extend_from_slice(&END);
        let mut bytes = self.attributes.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(path.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&utf16(&self.description));
        bytes.extend_from_slice(&path);
        bytes
    }
}

fn partition(node: &[u8]) -> Option<PartitionPath> {
    let number = |at: usize| Some(u64::from_le_bytes(node.get(at..at + 8)?.try_into().ok()?));
    Some(PartitionPath {
        number: u32::from_le_bytes(node.get(..4)?.try_into().ok()?),
        first_lba: number(4)?,
        sectors: number(12)?,
        guid: node.get(20..36)?.try_into().ok()?,
    })
}

/// UTF-16 with a NUL at its end, at most 1,000 units before it.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16()
        .filter(|u| *u != 0)
        .take(1000)
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_as_efibootmgr_writes_it_is_understood() {
        // efibootmgr -c -d /dev/vda -p 15 -L debian -l '\EFI\debian\shimx64.efi' on a Debian cloud image
        let bytes = hex::decode(
            concat!(
                "01000000",
                "6200",
                "64006500620069006100 6e000000",
                "04012a00",
                "0f000000",
                "0008000000000000",
                "00e0030000000000",
                "33221100554477668899aabbccddeeff",
                "0202",
                "04043400",
                "5c004500460049005c00640065006200690061006e005c007300680069006d007800360034002e006500660069000000",
                "7fff0400",
            )
            .replace(' ', ""),
        )
        .unwrap();
        let option = LoadOption::parse(&bytes).unwrap();
        assert_eq!(option.description, "debian");
        assert_eq!(option.file.as_deref(), Some("\\EFI\\debian\\shimx64.efi"));
        assert_eq!(option.partition.unwrap().number, 15);
        assert_eq!(option.partition.unwrap().first_lba, 2048);
        assert_eq!(option.encode(), bytes);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            LoadOption::parse(&bytes).ok();
        }

        #[test]
        fn damaged_entries_do_not_make_it_panic(at in 0usize..140, value: u8, cut in 0usize..140) {
            let option = LoadOption { attributes: 1, description: "debian".into(), partition: Some(PartitionPath { number: 1, first_lba: 2048, sectors: 99, guid: [7; 16] }), file: Some("\\EFI\\x".into()) };
            let mut bytes = option.encode();
            let length = bytes.len();
            bytes[at % length] = value;
            LoadOption::parse(&bytes).ok();
            LoadOption::parse(&bytes[..cut.min(length)]).ok();
        }

        #[test]
        fn what_is_written_reads_back(attributes: u32, description in "[^\\x00]{0,80}", number: u32, first_lba: u64, sectors: u64, guid: [u8; 16], file in proptest::option::of("[^\\x00]{0,80}")) {
            let option = LoadOption { attributes, description, partition: Some(PartitionPath { number, first_lba, sectors, guid }), file };
            prop_assert_eq!(LoadOption::parse(&option.encode()).unwrap(), option);
        }
    }
}
