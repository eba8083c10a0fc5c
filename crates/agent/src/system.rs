//! The duties of PID 1: mounts, orphans, quiet kernel messages, restart and power off.

use std::{fs, io, path::Path, time::Duration};

use rustix::{
    mount::{MountFlags, mount},
    process::WaitOptions,
    system::RebootCommand,
};

/// Mounts what the kernel offers. Whatever is mounted already stays.
pub fn mount_all() {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (kind, target, flags) in [
        ("proc", "/proc", flags | MountFlags::NODEV),
        ("sysfs", "/sys", flags | MountFlags::NODEV),
        ("devtmpfs", "/dev", flags),
        ("tmpfs", "/run", flags | MountFlags::NODEV),
    ] {
        if let Err(error) = mount(kind, target, kind, flags, None)
            && error != rustix::io::Errno::BUSY
        {
            eprintln!("kbm: cannot mount {kind} on {target}: {error}");
        }
    }
}

/// Mounts the EFI variables, where firmware has them.
pub fn mount_efivarfs() {
    let target = "/sys/firmware/efi/efivars";
    if Path::new(target).is_dir()
        && let Err(error) = mount(
            "efivarfs",
            target,
            "efivarfs",
            MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV,
            None,
        )
        && error != rustix::io::Errno::BUSY
    {
        tracing::warn!(%error, "no EFI variables");
    }
}

/// Keeps kernel messages off the console, and lets a panicked kernel restart after half a minute.
pub fn quiet_kernel() {
    for (path, value) in [("/proc/sys/kernel/printk", "1 4 1 7"), ("/proc/sys/kernel/panic", "30")] {
        if let Err(error) = fs::write(path, value) {
            tracing::debug!(path, %error, "not set");
        }
    }
}

/// Has the kernel gather randomness now, in a thread of its own. A machine without a hardware generator has none for minutes unless
/// somebody calls getrandom(2), which makes the kernel measure its own jitter; libraries that wait for `/dev/random` with poll(2) do not.
pub fn gather_randomness() {
    let gather = || {
        let mut byte = [0];
        if let Err(error) = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty()) {
            tracing::warn!(%error, "no randomness from the kernel");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("randomness".to_owned()).spawn(gather) {
        tracing::warn!(%error, "no thread");
    }
}

/// Collects dead children for ever; PID 1 inherits orphans.
pub async fn reap() {
    let Ok(mut signals) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child()) else {
        return;
    };
    loop {
        signals.recv().await;
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

/// Seconds since the kernel started.
pub fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = text.split_whitespace().next().and_then(|t| t.parse().ok()).unwrap_or_default();
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Restart.
    Restart,
    /// Switch off.
    PowerOff,
}

/// Flushes all file systems and disks, and goes down.
///
/// # Errors
/// When the kernel refuses (not root, or not allowed in this container).
pub fn go_down(how: Down) -> io::Result<()> {
    rustix::fs::sync();
    let command = match how {
        Down::Restart => RebootCommand::Restart,
        Down::PowerOff => RebootCommand::PowerOff,
    };
    Ok(rustix::system::reboot(command)?)
}
