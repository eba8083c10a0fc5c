//! Looks at a program's header: boot media and container image have neither loader nor libraries, so they can run only a static program, and only one for their own processor.
//!
//! Only the first bytes and the program headers are read. That the rest is sound is seen when it runs.

use agent_protocol::architecture::Architecture;

const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_INTERP: u32 = 3;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Checks that `bytes` are a static 64-bit ELF program for `architecture`.
///
/// # Errors
/// What is wrong with it, in words that follow "cannot be the program: ".
pub fn check(bytes: &[u8], architecture: Architecture) -> Result<(), String> {
    if bytes.len() < HEADER || !bytes.starts_with(b"\x7fELF") {
        return Err("it is no ELF program".to_owned());
    }
    // Class 2 is 64 bit, data 1 is little-endian.
    if bytes[4..6] != [2, 1] {
        return Err("it is no 64-bit little-endian program".to_owned());
    }
    let wanted = match architecture {
        Architecture::Amd64 => EM_X86_64,
        Architecture::Arm64 => EM_AARCH64,
    };
    let machine = u16::from_le_bytes([bytes[18], bytes[19]]);
    if machine != wanted {
        return Err(format!("it is for another processor (ELF machine {machine}, not {wanted})"));
    }
    let cut = || "its program headers are cut off".to_owned();
    let mut offset = [0; 8];
    offset.copy_from_slice(&bytes[32..40]);
    let offset = usize::try_from(u64::from_le_bytes(offset)).map_err(|_| cut())?;
    let count = usize::from(u16::from_le_bytes([bytes[56], bytes[57]]));
    if count == 0 || usize::from(u16::from_le_bytes([bytes[54], bytes[55]])) != PROGRAM_HEADER {
        return Err("it has no program headers: an object file or a library is no program".to_owned());
    }
    let end = offset.checked_add(count * PROGRAM_HEADER).ok_or_else(cut)?;
    let headers = bytes.get(offset..end).ok_or_else(cut)?;
    let interpreted = headers
        .chunks_exact(PROGRAM_HEADER)
        .any(|header| header.starts_with(&PT_INTERP.to_le_bytes()));
    if interpreted {
        return Err(
            "it is linked dynamically, and where it is to run there are neither loader nor libraries: build it with `-C target-feature=+crt-static`"
                .to_owned(),
        );
    }
    Ok(())
}
