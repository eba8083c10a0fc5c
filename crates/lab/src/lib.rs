//! QEMU machines and the swarm of simulated machines
