//! A disk with a write-back cache for a QEMU machine: [`SimDisk`], which loses and reorders what was not flushed, behind the NBD protocol
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>) on a Unix socket.
//!
//! When the power is cut no further request is answered, so that nothing in the machine learns of it, and [`CachedDisk::is_cut`] says so. It knows one export,
//! simple replies, and the commands that QEMU sends; flushes are the machine's own, as it issued them.

use std::{
    io::{Error, ErrorKind, Read, Result, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
};

use image::{
    BlockDevice,
    device::{
        ZeroMethod,
        sim::{Faults, SimDisk},
    },
};

const SECTOR: u32 = 512;
/// Most bytes of one read or write.
const MOST: u32 = 32 << 20;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Fixed newstyle, and no zeros behind the answer to EXPORT_NAME.
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Has flags, takes FLUSH, TRIM and WRITE_ZEROES.
const EXPORT_FLAGS: u16 = 1 | 1 << 2 | 1 << 5 | 1 << 6;
const ERROR_UNSUPPORTED: u32 = 1 << 31 | 1;
const EIO: u32 = 5;

/// The disk, as long as its machine is on.
pub struct CachedDisk {
    disk: Arc<SimDisk>,
}

impl CachedDisk {
    /// Serves a medium at this socket, in the place of whatever was served there before.
    pub fn serve(socket: &Path, medium: Vec<u8>) -> Self {
        if socket.exists() {
            std::fs::remove_file(socket).unwrap();
        }
        let listener = UnixListener::bind(socket).unwrap();
        let disk = Arc::new(SimDisk::new(medium, SECTOR, Faults::default()));
        let served = Arc::clone(&disk);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let disk = Arc::clone(&served);
                // A machine whose plug is pulled ends its connection in the middle.
                std::thread::spawn(move || serve(stream, &disk).unwrap_or_default());
            }
        });
        Self { disk }
    }

    /// Writes, zeroings and flushes so far.
    pub fn operations(&self) -> usize {
        self.disk.operations()
    }

    /// Flushes so far.
    pub fn flushes(&self) -> usize {
        self.disk.flushes()
    }

    /// Cuts the power before the operation that has so many before it from now on.
    pub fn cut_after(&self, operations: usize) {
        self.disk.cut_after(operations);
    }

    pub fn is_cut(&self) -> bool {
        self.disk.is_dead()
    }

    /// Sectors that were written and not flushed.
    pub fn pending_sectors(&self) -> usize {
        self.disk.pending_sectors()
    }

    /// The medium, when `survives` says which sectors (of which write) of what was not flushed had reached it.
    pub fn after_cut(&self, survives: impl FnMut(usize, usize) -> bool) -> Vec<u8> {
        self.disk.after_cut(survives)
    }
}

fn u16_of(stream: &mut UnixStream) -> Result<u16> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn u32_of(stream: &mut UnixStream) -> Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn u64_of(stream: &mut UnixStream) -> Result<u64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn bytes_of(stream: &mut UnixStream, length: u32) -> Result<Vec<u8>> {
    if length > MOST {
        return Err(Error::new(ErrorKind::InvalidData, format!("{length} bytes at once")));
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn serve(mut stream: UnixStream, disk: &SimDisk) -> Result<()> {
    stream.write_all(b"NBDMAGIC")?;
    stream.write_all(&OPTION_MAGIC.to_be_bytes())?;
    stream.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
    u32_of(&mut stream)?;
    if negotiate(&mut stream, disk)? {
        while transmit(&mut stream, disk)? {}
    }
    Ok(())
}

fn reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    stream.write_all(&REPLY_MAGIC.to_be_bytes())?;
    for word in [option, kind, data.len() as u32] {
        stream.write_all(&word.to_be_bytes())?;
    }
    stream.write_all(data)
}

/// Options, until the client wants to go on or to leave.
fn negotiate(stream: &mut UnixStream, disk: &SimDisk) -> Result<bool> {
    let (export_name, abort, info, go) = (1, 2, 6, 7);
    let (acknowledged, information) = (1, 3);
    let export = [disk.size().to_be_bytes().as_slice(), &EXPORT_FLAGS.to_be_bytes()].concat();
    loop {
        if u64_of(stream)? != OPTION_MAGIC {
            return Err(ErrorKind::InvalidData.into());
        }
        let (option, length) = (u32_of(stream)?, u32_of(stream)?);
        bytes_of(stream, length)?;
        if option == export_name {
            stream.write_all(&export)?;
            return Ok(true);
        }
        if option == info || option == go {
            reply(stream, option, information, &[[0, 0].as_slice(), &export].concat())?;
            let sizes = [SECTOR, 4096, MOST].map(u32::to_be_bytes).concat();
            reply(stream, option, information, &[[0, 3].as_slice(), &sizes].concat())?;
            reply(stream, option, acknowledged, &[])?;
            if option == go {
                return Ok(true);
            }
        } else if option == abort {
            reply(stream, option, acknowledged, &[])?;
            return Ok(false);
        } else {
            reply(stream, option, ERROR_UNSUPPORTED, &[])?;
        }
    }
}

/// One request; false when there are no more.
fn transmit(stream: &mut UnixStream, disk: &SimDisk) -> Result<bool> {
    let (read, write, disconnect, flush, trim, write_zeroes) = (0, 1, 2, 3, 4, 6);
    if u32_of(stream)? != REQUEST_MAGIC {
        return Err(ErrorKind::InvalidData.into());
    }
    u16_of(stream)?;
    let (command, cookie, offset, length) = (u16_of(stream)?, u64_of(stream)?, u64_of(stream)?, u32_of(stream)?);
    let mut answer = Vec::new();
    let done = if command == read && length <= MOST {
        answer.resize(length as usize, 0);
        disk.read_at(offset, &mut answer)
    } else if command == write {
        let data = bytes_of(stream, length)?;
        disk.write_at(offset, &data)
    } else if command == flush {
        disk.flush()
    } else if command == trim {
        disk.discard(offset, length.into())
    } else if command == write_zeroes {
        disk.zero_range(offset, length.into(), ZeroMethod::Offload)
    } else if command == disconnect {
        return Ok(false);
    } else {
        Err(ErrorKind::Unsupported.into())
    };
    if disk.is_dead() {
        // No answer comes any more. The end of the connection is the end of the machine.
        while stream.read(&mut [0; 4096])? > 0 {}
        return Ok(false);
    }
    stream.write_all(&SIMPLE_REPLY_MAGIC.to_be_bytes())?;
    stream.write_all(&if done.is_ok() { 0 } else { EIO }.to_be_bytes())?;
    stream.write_all(&cookie.to_be_bytes())?;
    if done.is_ok() {
        stream.write_all(&answer)?;
    }
    Ok(true)
}
