//! Where a qcow2 image keeps what: built from its tables by ranged reads, in bounded memory, before the data is streamed.

use super::header::{HEADER_BYTES, Header, be64};
use crate::decode::Limit;
use crate::error::ImageError;
use crate::source::Source;

/// Most pieces and zero runs together: 24 bytes each, 36 MiB.
const MAX_PIECES: usize = 1_500_000;
/// Longest piece of uncompressed data or of a table.
const MAX_RUN: u64 = 1 << 20;

const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const L2_COMPRESSED: u64 = 1 << 62;
const L2_ZERO: u64 = 1;

/// What a piece of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A table that was read already: index of its digest.
    Table,
    /// Clusters as they are: guest offset.
    Data,
    /// One compressed cluster: guest offset.
    Compressed,
}

/// A range of the file that matters. Ordered by where it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    pub(crate) host: u64,
    /// Guest offset, or the index of a table's digest.
    pub(crate) to: u64,
    /// Bytes in the file.
    pub(crate) length: u32,
    pub(crate) kind: Kind,
}

/// The map of an image.
pub(crate) struct Map {
    pub(crate) header: Header,
    /// By position in the file.
    pub(crate) pieces: Vec<Piece>,
    /// Ranges of the guest that read as zeros: offset and length.
    pub(crate) zeros: Vec<(u64, u64)>,
    /// Digests of the tables as they were read: the stream must carry the same bytes.
    pub(crate) tables: Vec<[u8; 16]>,
}

pub(crate) fn table_digest(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

struct Builder<'a> {
    name: &'a str,
    source: &'a mut dyn Source,
    source_size: Option<u64>,
    pieces: Vec<Piece>,
    zeros: Vec<(u64, u64)>,
    tables: Vec<[u8; 16]>,
}

impl Builder<'_> {
    fn corrupt(&self, reason: String) -> ImageError {
        ImageError::Corrupt {
            source_name: self.name.to_owned(),
            reason,
        }
    }

    fn room(&self) -> Result<(), ImageError> {
        if self.pieces.len() + self.zeros.len() < MAX_PIECES {
            return Ok(());
        }
        Err(ImageError::Unsupported {
            source_name: self.name.to_owned(),
            reason: format!("this qcow2 image is in more than {MAX_PIECES} pieces, too many to be written in bounded memory"),
            remedy: "convert it with qemu-img convert -O qcow2 -o cluster_size=2M, or publish it as raw compressed with zstd".to_owned(),
        })
    }

    /// Reads a table and remembers what was read.
    fn table(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let mut at = offset;
        for part in buffer.chunks_mut(MAX_RUN as usize) {
            self.room()?;
            let count = self.source.read_range(at, part)?;
            if count < part.len() {
                return Err(self.corrupt(format!("its table at offset {offset} lies behind the end of the file")));
            }
            let index = self.tables.len() as u64;
            self.tables.push(table_digest(part));
            // A part is at most MAX_RUN long.
            self.pieces.push(Piece {
                host: at,
                to: index,
                length: part.len() as u32,
                kind: Kind::Table,
            });
            at += part.len() as u64;
        }
        Ok(())
    }

    fn zero(&mut self, guest: u64, length: u64) -> Result<(), ImageError> {
        if let Some((start, before)) = self.zeros.last_mut()
            && *start + *before == guest
        {
            *before += length;
            return Ok(());
        }
        self.room()?;
        self.zeros.push((guest, length));
        Ok(())
    }

    fn data(&mut self, guest: u64, host: u64, length: u64) -> Result<(), ImageError> {
        if self.source_size.is_some_and(|size| host >= size) {
            return Err(self.corrupt(format!(
                "guest offset {guest} is mapped to offset {host}, behind the end of the file"
            )));
        }
        if let Some(last) = self.pieces.last_mut()
            && last.kind == Kind::Data
            && last.host + u64::from(last.length) == host
            && last.to + u64::from(last.length) == guest
            && u64::from(last.length) + length <= MAX_RUN
        {
            last.length += length as u32;
            return Ok(());
        }
        self.room()?;
        self.pieces.push(Piece {
            host,
            to: guest,
            length: length as u32,
            kind: Kind::Data,
        });
        Ok(())
    }

    /// One entry of a second-level table. `parts` is the second half of an extended one.
    fn entry(&mut self, header: &Header, guest: u64, entry: u64, parts: Option<u64>) -> Result<(), ImageError> {
        let cluster_size = header.cluster_size();
        if entry & L2_COMPRESSED != 0 {
            let shift = 62 - (header.cluster_bits - 8);
            let host = entry & ((1 << shift) - 1);
            let sectors = (entry & (L2_COMPRESSED - 1)) >> shift;
            let length = (sectors + 1) * 512 - (host & 511);
            if host == 0 || self.source_size.is_some_and(|size| host >= size) {
                return Err(self.corrupt(format!("guest offset {guest} is mapped to offset {host}, outside of the file")));
            }
            self.room()?;
            // At most twice the cluster size, 4 MiB.
            self.pieces.push(Piece {
                host,
                to: guest,
                length: length as u32,
                kind: Kind::Compressed,
            });
            return Ok(());
        }
        let host = entry & L1_OFFSET;
        let zero = entry & L2_ZERO != 0;
        if zero && (header.version == 2 || parts.is_some()) {
            return Err(self.corrupt(format!("the table entry of guest offset {guest} has a reserved bit set")));
        }
        if !host.is_multiple_of(cluster_size) {
            return Err(self.corrupt(format!("guest offset {guest} is mapped to offset {host}, which is not aligned")));
        }
        if let Some(parts) = parts {
            return self.parts(header, guest, host, parts);
        }
        if zero || host == 0 {
            let length = cluster_size.min(header.size - guest);
            return self.zero(guest, length);
        }
        self.data(guest, host, cluster_size)
    }

    /// The 32 parts of a cluster: the lower half of the bits says which are there, the upper half which read as zeros. What is neither
    /// would be in a backing file, which there is none of: zeros too.
    fn parts(&mut self, header: &Header, guest: u64, host: u64, bits: u64) -> Result<(), ImageError> {
        // Each half has 32 bits.
        let (here, zero) = (bits as u32, (bits >> 32) as u32);
        if here & zero != 0 || (here != 0 && host == 0) {
            return Err(self.corrupt(format!("the parts of the cluster of guest offset {guest} contradict each other")));
        }
        let unit = header.unit();
        let mut part = 0;
        while part < 32 {
            let is_here = here >> part & 1 == 1;
            let rest = (if is_here { !here } else { here }) >> part;
            let count = rest.trailing_zeros().min(32 - part);
            let (at, from) = (guest + u64::from(part) * unit, host + u64::from(part) * unit);
            if at >= header.size {
                break;
            }
            let length = u64::from(count) * unit;
            // A file may end inside of its last cluster.
            if is_here && (part == 0 || self.source_size.is_none_or(|size| from < size)) {
                self.data(at, from, length)?;
            } else {
                self.zero(at, length.min(header.size - at))?;
            }
            part += count;
        }
        Ok(())
    }
}

impl Map {
    pub(crate) fn build(name: &str, source: &mut dyn Source, limit: &Limit) -> Result<Self, ImageError> {
        let source_size = source.size()?;
        let mut builder = Builder {
            name,
            source,
            source_size,
            pieces: Vec::new(),
            zeros: Vec::new(),
            tables: Vec::new(),
        };
        let mut head = vec![0; HEADER_BYTES];
        let count = builder.source.read_range(0, &mut head)?;
        head.truncate(count);
        builder.tables.push(table_digest(&head));
        builder.pieces.push(Piece {
            host: 0,
            to: 0,
            length: count as u32,
            kind: Kind::Table,
        });
        let header = Header::parse(name, &head, limit)?;

        let cluster_size = header.cluster_size();
        // Both products are bounded: Header::parse limits the entries, and the cluster size is at most 2 MiB.
        let mut l1 = vec![0; header.l1_entries as usize * 8];
        builder.table(header.l1_offset, &mut l1)?;
        let mut l2 = vec![0; cluster_size as usize];
        let per_l1 = cluster_size * header.l2_entries();
        for index in 0..header.l1_entries {
            let guest = index * per_l1;
            let l1_entry = be64(&l1, index as usize * 8).unwrap_or(0);
            let offset = l1_entry & L1_OFFSET;
            if offset == 0 {
                builder.zero(guest, per_l1.min(header.size - guest))?;
                continue;
            }
            if !offset.is_multiple_of(cluster_size) {
                return Err(builder.corrupt(format!(
                    "its second-level table {index} is at offset {offset}, which is not aligned"
                )));
            }
            let entries = header.l2_entries().min((header.size - guest).div_ceil(cluster_size));
            let entry_bytes = header.l2_entry_bytes() as usize;
            let used = entries as usize * entry_bytes;
            builder.table(offset, &mut l2[..used])?;
            for slot in 0..entries {
                let at = slot as usize * entry_bytes;
                let entry = be64(&l2, at).unwrap_or(0);
                let parts = if header.extended_l2 { be64(&l2, at + 8) } else { None };
                builder.entry(&header, guest + slot * cluster_size, entry, parts)?;
            }
        }
        let Builder {
            mut pieces, zeros, tables, ..
        } = builder;
        pieces.sort_unstable();
        Ok(Self {
            header,
            pieces,
            zeros,
            tables,
        })
    }
}
