//! What firmware boots here: a sector of a disk, and a CD with one (ISO 9660 with El Torito).

/// Where firmware puts a boot sector.
const LOADED: u16 = 0x7c00;
/// Says its words on the first serial port, then waits for the power button of ICH9 (PM1 status at 0x600, where QEMU's firmware puts it) and switches off (S5).
const CODE: [u8; 46] = [
    0xfa, // cli
    0x31, 0xc0, 0x8e, 0xd8, // ds = 0
    0xbe, 0, 0, // si = the words
    0xac, 0x84, 0xc0, 0x74, 0x06, // next byte; 0 is the end
    0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, // to port 0x3f8, and on
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // PM1 enable: the power button
    0xfb, 0xf4, // sti, hlt: until the next tick of the clock
    0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xf5, // PM1 status: was it pressed? else wait on
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // PM1 control: sleep, type 0 (S5)
    0xeb, 0xfe, // for ever
];
/// Bytes of a sector of a CD.
const SECTOR: usize = 2048;

/// A boot sector that says these words.
pub fn sector(words: &str) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    let at = LOADED + CODE.len() as u16;
    sector[6..8].copy_from_slice(&at.to_le_bytes());
    let line = format!("\r\n{words}\r\n");
    sector[CODE.len()..CODE.len() + line.len()].copy_from_slice(line.as_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A CD whose boot sector says these words: the descriptors at their fixed places (ECMA-119, 8; El Torito 1.0, 2), the boot catalogue, the sector.
pub fn iso(words: &str) -> Vec<u8> {
    const CATALOGUE: usize = 19;
    const IMAGE: usize = 20;
    let mut iso = vec![0; SECTOR * 24];
    let mut put = |sector: usize, offset: usize, bytes: &[u8]| {
        let at = sector * SECTOR + offset;
        iso[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &(CATALOGUE as u32).to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    // The words of the validation entry come to 0: 0x0001, the checksum, 0xaa55.
    put(CATALOGUE, 0, &[1]);
    put(CATALOGUE, 0x1c, &0x55aa_u16.to_le_bytes());
    put(CATALOGUE, 0x1e, &[0x55, 0xaa]);
    // Bootable, no emulation, loaded where firmware puts things, four sectors of 512 bytes.
    put(CATALOGUE, 0x20, &[0x88]);
    put(CATALOGUE, 0x26, &4_u16.to_le_bytes());
    put(CATALOGUE, 0x28, &(IMAGE as u32).to_le_bytes());
    put(IMAGE, 0, &sector(words));
    iso
}
