//! Loads kernel modules for the devices that are there, as they appear.
//!
//! [`Loader::coldplug`] matches every device in sysfs; [`watch`] listens to the kernel's uevents for those that come later (disks behind a
//! SCSI controller, USB). What was loaded once is not tried again. The kernel itself asks for more through `/sbin/modprobe`, which is this
//! program too ([`modprobe`]). Network devices go first: their link needs seconds to come up while disks are being looked for.
//! Drivers of management controllers are loaded in a thread of their own, for which nobody waits: one that hangs keeps its driver for many seconds.

use std::{
    collections::HashSet,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use module_index::Index;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink},
};

/// Where the boot media keep the index; paths in it are relative to `/`.
pub const INDEX: &str = "/lib/modules/index";

/// Drivers of management controllers.
const BMC_DRIVERS: [&str; 2] = ["ipmi_si", "ipmi_ssif"];
/// What shows a controller as a device. No device asks for it.
const BMC_DEVICE: &str = "ipmi_devintf";

/// Loads modules, each once.
#[derive(Debug)]
pub struct Loader {
    index: Index,
    root: PathBuf,
    tried: Mutex<HashSet<String>>,
    last_event: Mutex<Instant>,
    /// Where drivers of controllers go; without it they are loaded like others.
    aside: Option<Sender<String>>,
}

impl Loader {
    /// Reads the index of the boot media.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn open() -> anyhow::Result<Self> {
        let text = fs::read_to_string(INDEX)?;
        Ok(Self::new(Index::parse(&text)?, PathBuf::from("/")))
    }

    fn new(index: Index, root: PathBuf) -> Self {
        Self {
            index,
            root,
            tried: Mutex::default(),
            last_event: Mutex::new(Instant::now()),
            aside: None,
        }
    }

    /// The same, which loads drivers of management controllers in a thread of their own.
    ///
    /// # Errors
    /// When the index cannot be read or understood, or there is no thread.
    pub fn open_for_boot() -> anyhow::Result<Arc<Self>> {
        let (aside, drivers) = channel();
        let loader = Arc::new(Self {
            aside: Some(aside),
            ..Self::open()?
        });
        let loads = Arc::clone(&loader);
        std::thread::Builder::new()
            .name("bmc-drivers".to_owned())
            .spawn(move || loads.load_aside(&drivers))?;
        Ok(loader)
    }

    fn load_aside(&self, drivers: &Receiver<String>) {
        while let Ok(driver) = drivers.recv() {
            self.load(&driver);
            self.load(BMC_DEVICE);
        }
    }

    /// Loads every module that drives `modalias`. Failures are the kernel's to report: a driver that refuses a device is no reason to stop.
    pub fn load_for(&self, modalias: &str) {
        for name in self.index.matching(modalias) {
            let aside = self.aside.as_ref().filter(|_| BMC_DRIVERS.contains(&name));
            if aside.is_none_or(|aside| aside.send(name.to_owned()).is_err()) {
                self.load(name);
            }
        }
    }

    /// Loads one module and what it depends on.
    pub fn load(&self, name: &str) {
        for name in self.index.load_order(name) {
            // The lock is not held while loading: probing a device may make the kernel ask for another module.
            if !self.tried.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned()) {
                continue;
            }
            let Some(module) = self.index.get(name) else { continue };
            match insert(&self.root.join(&module.path)) {
                Ok(()) => self.touch(),
                Err(error) => tracing::debug!(name, %error, "module not loaded"),
            }
        }
    }

    /// Loads for every device that is there, network first. Repeats while loading makes new devices appear, at most a few rounds.
    pub fn coldplug(&self) {
        let mut seen = HashSet::new();
        for _ in 0..8 {
            let mut found: Vec<String> = modaliases(Path::new("/sys/bus"))
                .into_iter()
                .filter(|m| !seen.contains(m))
                .collect();
            if found.is_empty() {
                return;
            }
            found.sort_by_key(|m| (!is_network(m), m.clone()));
            for modalias in found {
                self.load_for(&modalias);
                seen.insert(modalias);
            }
        }
    }

    fn touch(&self) {
        *self.last_event.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long nothing has appeared and nothing was loaded.
    pub fn quiet_for(&self) -> Duration {
        self.last_event.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// PCI class 02 (network), and what virtio, Xen and Hyper-V call a network device. Bus bridges to them come first too.
fn is_network(modalias: &str) -> bool {
    (modalias.starts_with("pci:") && modalias.contains("bc02"))
        || modalias.starts_with("virtio:d00000001")
        || modalias.starts_with("xen:vif")
        || modalias.starts_with("vmbus:635161f83edfc546913ff2d2f965ed0e")
}

fn insert(path: &Path) -> anyhow::Result<()> {
    let file = fs::File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The `modalias` of every device of every bus.
fn modaliases(buses: &Path) -> HashSet<String> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    entries(buses)
        .flat_map(|bus| entries(&bus.path().join("devices")))
        .filter_map(|device| fs::read_to_string(device.path().join("modalias")).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

/// Listens to uevents and loads for each new device, until the process ends. The socket is made before this returns, so that nothing
/// which appears afterwards is missed.
///
/// # Errors
/// When the kernel gives no socket, or no thread.
pub fn watch(loader: &Arc<Loader>) -> anyhow::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    rustix::net::bind(&socket, &netlink::SocketAddrNetlink::new(0, 1))?;
    let loader = Arc::clone(loader);
    std::thread::Builder::new()
        .name("uevents".to_owned())
        .spawn(move || listen(&socket, &loader))?;
    Ok(())
}

fn listen(socket: &OwnedFd, loader: &Loader) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((_, length)) => {
                if let Some(modalias) = added_device(&buffer[..length.min(buffer.len())]) {
                    loader.touch();
                    if let Some(modalias) = modalias {
                        loader.load_for(&modalias);
                    }
                }
            }
            // The kernel dropped messages: look at everything again.
            Err(Errno::NOBUFS) => loader.coldplug(),
            Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "no more uevents");
                return;
            }
        }
    }
}

/// For a message that says a device was added: its `MODALIAS`, where it has one.
fn added_device(message: &[u8]) -> Option<Option<String>> {
    let mut fields = message.split(|b| *b == 0);
    if !fields.next()?.starts_with(b"add@") {
        return None;
    }
    Some(
        fields
            .find_map(|f| f.strip_prefix(b"MODALIAS="))
            .and_then(|m| String::from_utf8(m.to_vec()).ok()),
    )
}

/// What the kernel runs as `/sbin/modprobe -q -- NAME`.
///
/// # Errors
/// When the index cannot be read.
pub fn modprobe(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let loader = Loader::open()?;
    for name in arguments.filter(|a| !a.starts_with('-')) {
        loader.load_for(&name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uevents_of_new_devices_are_understood() {
        let message = b"add@/devices/x\0ACTION=add\0MODALIAS=scsi:t-0x00\0SEQNUM=1\0";
        assert_eq!(added_device(message), Some(Some("scsi:t-0x00".to_owned())));
        assert_eq!(added_device(b"add@/devices/x\0ACTION=add\0"), Some(None));
        assert_eq!(added_device(b"remove@/devices/x\0MODALIAS=x\0"), None);
        assert_eq!(added_device(b"libudev\0\xfe\xed"), None);
    }

    #[test]
    fn network_devices_are_told_from_others() {
        assert!(is_network("pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"));
        assert!(!is_network("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"));
        assert!(is_network("virtio:d00000001v00001AF4"));
    }

    #[test]
    fn devices_of_every_bus_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for (device, modalias) in [
            ("pci/devices/0000:00:01.0", "pci:a\n"),
            ("usb/devices/1-1", "usb:b\n"),
            ("usb/devices/2-1", "\n"),
        ] {
            let device = folder.path().join(device);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("modalias"), modalias).unwrap();
        }
        assert_eq!(modaliases(folder.path()), HashSet::from(["pci:a".to_owned(), "usb:b".to_owned()]));
    }
}
