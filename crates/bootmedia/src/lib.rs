//! Builds the boot media: Debian's kernel and an initramfs with the agent, reproducibly
