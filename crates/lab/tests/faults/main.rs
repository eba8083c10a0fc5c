//! Whole lives of real machines (QEMU, real firmware, the real boot media, the real server process) in which things go wrong.
//!
//! * [`power_cut`]: the plug is pulled at ten points of writing an image; no half image ever boots, and the machine finishes.
//! * [`wrong`]: downloads, images and disks that are not what was declared; each fault names itself and its remedy, and the remedy works.
//! * [`write_back`]: the same at random points with a disk that loses its cache; and the disks of two machines are the same where they must be.
//! * [`server_kills`]: the server is killed three times in one machine's life.
//! * [`stored`]: nothing goes wrong here, but that an image is written twice: packed, out of the image store, the second time over the installation before.
//!
//! The operating system is a boot sector that says one line on the serial port, in front of data of which no block equals another
//! ([`disk_image`]), so that a disk can be judged byte by byte from outside. `KBM_PROGRAM` names the `kube-baremetal` command and `KBM_BOOTMEDIA` the
//! folder of boot media; `make test-faults` sets both.

mod disk_image;
mod http;
mod nbd;
mod power_cut;
mod server_kills;
mod stored;
mod world;
mod write_back;
mod wrong;
