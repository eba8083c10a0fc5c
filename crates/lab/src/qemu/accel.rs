//! KVM only when it is proven to work.
//!
//! In nested or restricted hosts `/dev/kvm` may open and the guest then hang for ever, some only once it leaves real mode. So a tiny guest runs firmware and
//! the network card's iPXE, whose words on the serial port must arrive in time; else QEMU's own emulation (TCG) is used, which is slow and always works.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// How QEMU runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accelerator {
    /// QEMU's `-accel` argument.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }

    /// Proves KVM with a guest, or falls back.
    pub async fn detect() -> Self {
        if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
            return Self::Tcg;
        }
        if proven().await { Self::Kvm } else { Self::Tcg }
    }
}

async fn proven() -> bool {
    let guest = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "kvm",
            "-machine",
            "q35,graphics=off",
            "-cpu",
            "max",
            "-m",
            "128",
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
        ])
        .args([
            "-serial",
            "stdio",
            "-netdev",
            "user,id=n,restrict=on",
            "-device",
            "virtio-net-pci,netdev=n,bootindex=1",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut guest) = guest else { return false };
    let Some(mut output) = guest.stdout.take() else { return false };
    let heard = timeout(Duration::from_secs(10), async {
        let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
        // iPXE says this once it runs, in protected mode, and has found its devices.
        while !String::from_utf8_lossy(&said).contains("Features:") {
            match output.read(&mut buffer).await {
                Ok(n) if n > 0 => said.extend_from_slice(&buffer[..n]),
                _ => return false,
            }
        }
        true
    })
    .await;
    guest.kill().await.ok();
    heard.unwrap_or(false)
}
