//! Disk image formats, download, verification and writing, synchronous and bounded in memory
