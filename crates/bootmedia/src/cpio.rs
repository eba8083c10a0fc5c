//! Writes cpio archives in the form that the kernel unpacks (newc, `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Reproducible by construction: entries are sorted, belong to root, have no time, and inode numbers count up. Folders above an entry are
//! made by themselves.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// What one path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Directory,
    /// A file with its contents; executable or not.
    File {
        /// Contents.
        data: Vec<u8>,
        /// Mode 0755, else 0644.
        executable: bool,
    },
    /// A symbolic link to a target.
    Symlink(String),
    /// A character device with its mode, major and minor number.
    CharDevice {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// A tree of files, by path without a leading slash.
#[derive(Debug, Clone, Default)]
pub struct Archive(BTreeMap<String, Node>);

impl Archive {
    /// Puts a node at a path, with the folders above it. The later of two nodes at one path wins.
    pub fn insert(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node::Directory);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// Those of `out`; and [`io::ErrorKind::InvalidInput`] for a file above 4 GiB, which the form cannot hold.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        // A BTreeMap sorts `a.b` before `a/b`; a folder still comes before what is in it, as a prefix sorts first.
        for (inode, (path, node)) in (1u32..).zip(&self.0) {
            let (mode, data, major, minor): (u32, &[u8], u32, u32) = match node {
                Node::Directory => (0o040_755, &[], 0, 0),
                Node::File { data, executable } => (if *executable { 0o100_755 } else { 0o100_644 }, data, 0, 0),
                Node::Symlink(target) => (0o120_777, target.as_bytes(), 0, 0),
                Node::CharDevice { mode, major, minor } => (0o020_000 | mode, &[], *major, *minor),
            };
            let links = if matches!(node, Node::Directory) { 2 } else { 1 };
            entry(out, inode, mode, links, path, data, (major, minor))?;
        }
        entry(out, 0, 0, 1, "TRAILER!!!", &[], (0, 0))
    }
}

fn entry(out: &mut impl Write, inode: u32, mode: u32, links: u32, path: &str, data: &[u8], device: (u32, u32)) -> io::Result<()> {
    let size =
        u32::try_from(data.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is larger than 4 GiB")))?;
    let name = u32::try_from(path.len() + 1).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path is too long"))?;
    let header = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name, 0];
    let mut text = String::from("070701");
    for field in header {
        text.push_str(&format!("{field:08x}"));
    }
    out.write_all(text.as_bytes())?;
    out.write_all(path.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, text.len() + path.len() + 1)?;
    out.write_all(data)?;
    pad(out, data.len())
}

fn pad(out: &mut impl Write, written: usize) -> io::Result<()> {
    out.write_all(&[0; 3][..written.wrapping_neg() % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, mode, contents, device number.
    type Entry = (String, u32, Vec<u8>, (u32, u32));

    /// Reads an archive back, as the kernel does.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let whole = bytes.len();
        let mut found = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| u32::from_str_radix(std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap(), 16).unwrap();
            let (mode, size, name, device) = (field(1), field(6) as usize, field(11) as usize, (field(9), field(10)));
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name - 1], 0);
            let data = (110 + name).next_multiple_of(4);
            let end = (data + size).next_multiple_of(4);
            if path == "TRAILER!!!" {
                assert_eq!(end, bytes.len());
                assert_eq!(whole % 4, 0);
                return found;
            }
            found.push((path, mode, bytes[data..data + size].to_vec(), device));
            bytes = &bytes[end..];
        }
    }

    #[test]
    fn what_is_written_is_read_and_folders_come_first() {
        let mut archive = Archive::default();
        let data = b"hello".to_vec();
        archive.insert(
            "/lib/modules/a.ko",
            Node::File {
                data: data.clone(),
                executable: false,
            },
        );
        archive.insert(
            "init",
            Node::File {
                data: vec![1, 2, 3, 4],
                executable: true,
            },
        );
        archive.insert(
            "dev/console",
            Node::CharDevice {
                mode: 0o600,
                major: 5,
                minor: 1,
            },
        );
        archive.insert("sbin/modprobe", Node::Symlink("/init".to_owned()));
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let want = [
            ("dev", 0o040_755, &b""[..], (0, 0)),
            ("dev/console", 0o020_600, b"", (5, 1)),
            ("init", 0o100_755, &[1, 2, 3, 4], (0, 0)),
            ("lib", 0o040_755, b"", (0, 0)),
            ("lib/modules", 0o040_755, b"", (0, 0)),
            ("lib/modules/a.ko", 0o100_644, b"hello", (0, 0)),
            ("sbin", 0o040_755, b"", (0, 0)),
            ("sbin/modprobe", 0o120_777, b"/init", (0, 0)),
        ];
        let want: Vec<_> = want.map(|(p, m, d, v)| (p.to_owned(), m, d.to_vec(), v)).into();
        assert_eq!(read(&bytes), want);
    }
}
