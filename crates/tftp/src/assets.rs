//! The fixed set of what is served: names to bytes.
//!
//! A name from a request is normalised and then looked up as it is in a table. There is no file system behind it, so no name can lead out of anything.
//! A second table holds suffixes, for firmware and loaders that put a directory of their own before the name (`EFI/BOOT/grubx64.efi`,
//! `b827eb01/start4.elf`): the longest suffix of whole segments wins, and an exact name wins over any suffix.
//!
//! The set does not change while it is served; to serve another one, start another server. It holds no answer that differs by machine.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;

/// One asset of a set: its index, in the order of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetId(pub(crate) usize);

impl AssetId {
    /// Index into lists by asset, for example [`crate::Snapshot::assets`].
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
struct Asset {
    name: Arc<str>,
    content: Bytes,
}

/// Names to bytes.
#[derive(Debug, Default)]
pub struct Assets {
    list: Vec<Asset>,
    names: HashMap<String, AssetId>,
    suffixes: HashMap<String, AssetId>,
    /// In bytes: what is longer need not be looked up, however many segments somebody writes into a name.
    longest_suffix: usize,
}

/// Why a name cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssetError {
    /// Nobody could ask for it.
    #[error("{0:?} is no name for a TFTP asset: use printable ASCII, with / between its parts, and no part that is '..'")]
    Name(String),
    /// Two assets would have one name.
    #[error("the TFTP asset {0:?} is there twice")]
    Twice(String),
}

impl Assets {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an asset under a name.
    ///
    /// # Errors
    /// When the name cannot be asked for or is taken.
    pub fn add(&mut self, name: &str, content: Bytes) -> Result<AssetId, AssetError> {
        let id = AssetId(self.list.len());
        insert(&mut self.names, name, id)?;
        self.list.push(Asset {
            name: name.into(),
            content,
        });
        Ok(id)
    }

    /// Gives an asset a further name.
    ///
    /// # Errors
    /// When the name cannot be asked for or is taken.
    pub fn alias(&mut self, name: &str, asset: AssetId) -> Result<(), AssetError> {
        insert(&mut self.names, name, asset)
    }

    /// Serves an asset for every name that ends in these segments: `grub/x64.efi` is found as `grub/x64.efi` and `any/thing/grub/x64.efi`, not as
    /// `mygrub/x64.efi`.
    ///
    /// # Errors
    /// When the suffix cannot be asked for or is taken.
    pub fn alias_suffix(&mut self, suffix: &str, asset: AssetId) -> Result<(), AssetError> {
        insert(&mut self.suffixes, suffix, asset)?;
        self.longest_suffix = self.longest_suffix.max(suffix.len());
        Ok(())
    }

    /// Looks up the name of a request.
    pub fn find(&self, requested: &[u8]) -> Option<AssetId> {
        let name = normalise(requested)?;
        if let Some(asset) = self.names.get(&name) {
            return Some(*asset);
        }
        let mut suffix = name.as_str();
        loop {
            if suffix.len() <= self.longest_suffix
                && let Some(asset) = self.suffixes.get(suffix)
            {
                return Some(*asset);
            }
            suffix = suffix.split_once('/')?.1;
        }
    }

    /// The name under which it was added.
    pub fn name(&self, asset: AssetId) -> &Arc<str> {
        &self.list[asset.0].name
    }

    /// Its bytes.
    pub fn content(&self, asset: AssetId) -> &Bytes {
        &self.list[asset.0].content
    }

    /// All names under which assets were added, by their index.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.list.iter().map(|asset| &asset.name)
    }

    /// How many assets there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

fn insert(table: &mut HashMap<String, AssetId>, name: &str, asset: AssetId) -> Result<(), AssetError> {
    let key = normalise(name.as_bytes()).ok_or_else(|| AssetError::Name(name.to_owned()))?;
    if table.contains_key(&key) {
        return Err(AssetError::Twice(name.to_owned()));
    }
    table.insert(key, asset);
    Ok(())
}

/// Segments joined by single slashes: backslashes separate like slashes; leading and doubled separators and segments that are a single dot say nothing.
/// Bytes of 0xFF and blanks at the end are dropped: firmware that takes the name from a DHCP option without a zero at its end appends the option that
/// ends the list (`pxelinux.0\377`). `None` where no asset can have that name.
fn normalise(requested: &[u8]) -> Option<String> {
    let end = requested.iter().rposition(|b| *b != 0xff && !b.is_ascii_whitespace())? + 1;
    let text = std::str::from_utf8(&requested[..end]).ok()?;
    let mut name = String::with_capacity(text.len());
    for segment in text.split(['/', '\\']) {
        match segment {
            "" | "." => {}
            ".." => return None,
            _ if segment.trim() != segment || !segment.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) => return None,
            _ => {
                if !name.is_empty() {
                    name.push('/');
                }
                name.push_str(segment);
            }
        }
    }
    (!name.is_empty()).then_some(name)
}

/// A requested name for logs and events: bounded, printable, on one line.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 128;
        write!(f, "{}", self.0[..self.0.len().min(MOST)].escape_ascii())?;
        if self.0.len() > MOST { f.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> (Assets, AssetId, AssetId) {
        let mut assets = Assets::new();
        let ipxe = assets.add("ipxe.efi", Bytes::from_static(b"ipxe")).unwrap();
        let grub = assets.add("debian/grubx64.efi", Bytes::from_static(b"grub")).unwrap();
        assets.alias("undionly.kpxe", ipxe).unwrap();
        assets.alias_suffix("grubx64.efi", grub).unwrap();
        assets.alias_suffix("special/grubx64.efi", ipxe).unwrap();
        (assets, ipxe, grub)
    }

    #[test]
    fn spellings_of_one_name() {
        let (assets, ipxe, grub) = set();
        for name in [
            &b"ipxe.efi"[..],
            b"/ipxe.efi",
            b"//ipxe.efi",
            b"\\ipxe.efi",
            b"./ipxe.efi",
            b"ipxe.efi\xff",
            b"ipxe.efi\xff\xff",
            b"ipxe.efi ",
            b"undionly.kpxe",
        ] {
            assert_eq!(assets.find(name), Some(ipxe), "{}", name.escape_ascii());
        }
        for name in [
            &b"debian/grubx64.efi"[..],
            b"debian\\grubx64.efi",
            b"/debian//grubx64.efi",
            b"grubx64.efi",
            b"EFI\\BOOT\\grubx64.efi",
            b"not/special/at/all/grubx64.efi",
        ] {
            assert_eq!(assets.find(name), Some(grub), "{}", name.escape_ascii());
        }
        assert_eq!(assets.find(b"a/special/grubx64.efi"), Some(ipxe), "the longest suffix wins");
    }

    #[test]
    fn names_that_are_not_there() {
        let (assets, ..) = set();
        for name in [
            &b""[..],
            b"/",
            b"\xff",
            b"ipxe",
            b"IPXE.EFI",
            b"x/ipxe.efi",
            b"ipxe.efi/",
            b"../ipxe.efi",
            b"x/../ipxe.efi",
            b"..\\ipxe.efi",
            b"mygrubx64.efi",
            b"grubx64.efi/x",
            b"ipxe\xff.efi",
            b"ipxe.efi\n#",
            b"/etc/passwd",
            b"../grubx64.efi",
        ] {
            // A trailing separator says nothing either.
            let expected = if name == b"ipxe.efi/" { assets.find(b"ipxe.efi") } else { None };
            assert_eq!(assets.find(name), expected, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn names_that_cannot_be_added() {
        let (mut assets, ipxe, _) = set();
        assert_eq!(assets.add("/ipxe.efi", Bytes::new()), Err(AssetError::Twice("/ipxe.efi".into())));
        for name in ["", "/", "a/../b", "a\0b", "bött"] {
            assert_eq!(assets.alias(name, ipxe), Err(AssetError::Name(name.into())));
            assert_eq!(assets.alias_suffix(name, ipxe), Err(AssetError::Name(name.into())));
        }
        assert_eq!(assets.len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_name_finds_what_was_not_added(requested in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let (assets, ..) = set();
            if assets.find(&requested).is_some() {
                let name = normalise(&requested).unwrap();
                proptest::prop_assert!(name == "ipxe.efi" || name == "undionly.kpxe" || name.ends_with("grubx64.efi"));
            }
        }

        #[test]
        fn normalising_twice_changes_nothing(requested in "[a-c./\\\\ \u{ff}]{0,20}") {
            if let Some(name) = normalise(requested.as_bytes()) {
                proptest::prop_assert_eq!(normalise(name.as_bytes()), Some(name.clone()));
                proptest::prop_assert!(!name.split('/').any(|s| s == ".." || s == "." || s.is_empty()));
            }
        }
    }
}
