//! Builds the boot media: Debian's own kernel, and an initramfs with the agent as PID 1 and nothing else that runs.
//!
//! [`build`] takes Debian's kernel package (through apt, which verifies it, or a file), picks the modules that `bootmedia/modules.list`
//! names with all they depend on, the firmware that `bootmedia/firmware.list` names, and writes into the folder of their architecture (`amd64`, `arm64`) in the
//! media folder, which the boot server serves as it is:
//!
//! * [`KERNEL`]: the signed kernel as Debian ships it;
//! * [`INITRAMFS`]: a cpio archive, zstd compressed: `/init` (the agent), `/sbin/modprobe` (the agent under another name: the kernel calls it),
//!   modules, firmware, and [`INDEX`];
//! * [`MANIFEST`]: what is inside and where it came from.
//!
//! Invariants: equal inputs give equal bytes, whatever the clock, the umask, the file system's order or the number of processors; module
//! signatures are never touched; no script of a package is run; nothing outside of the output folder, the cache and a temporary one is written. No program of the other
//! architecture is run, and apt's own lists stay those of the host.
//!
//! [`iso`] makes a boot medium of them, for machines that no network boots.
//!
//! It does not build the agent: [`Options::agent`] is a static binary (`make agent`, `make agent-arm64`).

mod apt;
pub mod cpio;
pub mod deb;
pub mod elf;
mod firmware;
pub mod iso;
pub mod modinfo;
pub mod select;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use agent_protocol::architecture::Architecture;
use apt::Apt;
use deb::{Content, PackageId};
use module_index::normalize;
use select::{Candidate, Rules};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// File name of the kernel in the folder of its architecture.
pub const KERNEL: &str = "vmlinuz";
/// File name of the initramfs in the folder of its architecture.
pub const INITRAMFS: &str = "initramfs.zst";
/// File name of the manifest in the folder of its architecture.
pub const MANIFEST: &str = "manifest.json";
/// Path of the module index in the initramfs.
pub const INDEX: &str = "lib/modules/index";
/// The most that kernel and initramfs may have together, in bytes: small machines and slow networks load them. Debian's kernel for arm64 is not compressed, because the
/// architecture leaves that to boot loaders, and is four times as large.
pub const fn max_bytes(architecture: Architecture) -> u64 {
    match architecture {
        Architecture::Amd64 => 40 << 20,
        Architecture::Arm64 => 64 << 20,
    }
}

/// The modules that are chosen by default.
pub const MODULES_LIST: &str = include_str!("../../../bootmedia/modules.list");
/// The firmware that is chosen by default, and the packages it comes from.
pub const FIRMWARE_LIST: &str = include_str!("../../../bootmedia/firmware.list");

/// Why the media could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing.
    #[error(
        "cannot run {program}: the boot media are built on Debian or Ubuntu (`scripts/setup` installs what is needed), or from package files with --kernel-package"
    )]
    Run {
        /// Which program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// apt does not give a package.
    #[error("apt does not give the package {package}: {problem}. Run `apt-get update`, or give the package as a file")]
    Apt {
        /// Which package.
        package: String,
        /// What apt says.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The package is no kernel package.
    #[error("{}: {problem}", path.display())]
    Package {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A module is damaged.
    #[error("module {path} of the kernel package")]
    Module {
        /// Which module.
        path: String,
        /// Why.
        source: modinfo::ModinfoError,
    },
    /// A dependency is missing.
    #[error("the kernel package does not hold all modules that others need")]
    Dependencies(#[source] module_index::IndexError),
    /// The agent is not what can run as PID 1.
    #[error("{} cannot be the agent for {architecture}: {problem} (`make {}` builds it)", path.display(), agent_target(*architecture))]
    Agent {
        /// Which file.
        path: PathBuf,
        /// For which architecture it was given.
        architecture: Architecture,
        /// What is wrong.
        problem: String,
    },
    /// A program of the host did not do its part.
    #[error("{program}: {problem}")]
    Tool {
        /// Which program.
        program: &'static str,
        /// What it says.
        problem: String,
    },
    /// Too much was chosen.
    #[error("kernel and initramfs for {0} have {1} bytes, more than {max}: shorten the lists of modules and firmware", max = max_bytes(*.0))]
    TooLarge(Architecture, u64),
}

fn agent_target(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "agent",
        Architecture::Arm64 => "agent-arm64",
    }
}

/// Where firmware comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FirmwareSource {
    /// Through apt; packages that apt does not know are left out, and the manifest says so.
    #[default]
    Apt,
    /// From these package files only.
    Files(Vec<PathBuf>),
    /// None.
    Without,
}

/// What to build, and from what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The media folder; made if missing. The results go into its folder of the architecture.
    pub output: PathBuf,
    /// For which machines.
    pub architecture: Architecture,
    /// The static agent.
    pub agent: PathBuf,
    /// Kernel package as a file; else what Debian's meta package (`linux-image-amd64`) stands for, through apt.
    pub kernel_package: Option<PathBuf>,
    /// Where firmware comes from.
    pub firmware: FirmwareSource,
    /// Folder in which downloaded packages are kept; else they are forgotten.
    pub cache: Option<PathBuf>,
    /// Text of the module list.
    pub modules_list: String,
    /// Text of the firmware list.
    pub firmware_list: String,
    /// zstd level, 1 to 19. What is released has 19; tests may want less.
    pub level: i32,
}

impl Options {
    /// The usual build of `agent` into `output`.
    pub fn new(output: impl Into<PathBuf>, architecture: Architecture, agent: impl Into<PathBuf>) -> Self {
        Self {
            output: output.into(),
            architecture,
            agent: agent.into(),
            kernel_package: None,
            firmware: FirmwareSource::default(),
            cache: None,
            modules_list: MODULES_LIST.to_owned(),
            firmware_list: FIRMWARE_LIST.to_owned(),
            level: 19,
        }
    }

    /// Where the results are.
    pub fn folder(&self) -> PathBuf {
        self.output.join(self.architecture.name())
    }
}

/// A file of the output folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputFile {
    /// Its name there.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// Firmware that was wanted and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingFirmware {
    /// Package that apt does not give.
    pub package: String,
    /// Why, and the remedy.
    pub reason: String,
}

/// What the media hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Go's name of the architecture: `amd64`, `arm64`.
    pub architecture: String,
    /// `uname -r` of the kernel.
    pub kernel_version: String,
    /// Where the kernel came from.
    pub kernel_package: PackageId,
    /// Where firmware came from.
    pub firmware_packages: Vec<PackageId>,
    /// Firmware that was left out for want of its package.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firmware_left_out: Vec<MissingFirmware>,
    /// The kernel.
    pub kernel: OutputFile,
    /// The initramfs.
    pub initramfs: OutputFile,
    /// SHA-256 of the agent.
    pub agent_sha256: String,
    /// Size of the initramfs when unpacked.
    pub unpacked_bytes: u64,
    /// Paths of the modules below `kernel/`, sorted.
    pub modules: Vec<String>,
    /// Paths of the firmware files below `/lib/firmware`, sorted.
    pub firmware: Vec<String>,
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

/// What is taken out of a kernel package.
struct KernelPackage {
    version: String,
    vmlinuz: Vec<u8>,
    builtin: BTreeSet<String>,
    modules: BTreeMap<String, (Candidate, Vec<u8>)>,
}

fn read_kernel_package(path: &Path) -> Result<KernelPackage, Error> {
    let bad = |problem: &str| Error::Package {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let (mut kernel, mut builtin, mut raw) = (None, None, Vec::new());
    deb::files(
        path,
        |name| name.starts_with("boot/vmlinuz-") || name.contains("lib/modules/"),
        |name, content| {
            let Content::File(data) = content else { return Ok(()) };
            if let Some(version) = name.strip_prefix("boot/vmlinuz-") {
                kernel = Some((version.to_owned(), data));
            } else if name.ends_with("/modules.builtin") {
                builtin = Some(data);
            } else if let Some((_, inside)) = name.split_once("/kernel/") {
                let plain = match inside.rsplit_once(".ko") {
                    Some((_, "")) => data,
                    Some((_, ".xz")) => read_all(liblzma::read::XzDecoder::new(data.as_slice()))?,
                    Some((_, ".zst")) => read_all(zstd::stream::read::Decoder::new(data.as_slice())?)?,
                    _ => return Ok(()),
                };
                let inside = inside.split(".ko").next().unwrap_or_default().to_owned();
                raw.push((inside, plain));
            }
            Ok(())
        },
    )
    .map_err(at("reading the kernel package", path))?;
    let (version, vmlinuz) = kernel.ok_or_else(|| bad("holds no boot/vmlinuz-*: not a kernel package"))?;
    let builtin = builtin.ok_or_else(|| bad("holds no modules.builtin"))?;
    let mut modules = BTreeMap::new();
    for (path, data) in raw {
        let info = modinfo::parse(&data).map_err(|source| Error::Module {
            path: path.clone(),
            source,
        })?;
        let name = normalize(path.rsplit('/').next().unwrap_or_default());
        modules.insert(name, (Candidate { path, info }, data));
    }
    Ok(KernelPackage {
        version,
        vmlinuz,
        builtin: select::builtin(&String::from_utf8_lossy(&builtin)),
        modules,
    })
}

fn read_all(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    // A module of more than 256 MiB is none.
    reader.take(256 << 20).read_to_end(&mut data)?;
    Ok(data)
}

struct Firmware {
    files: BTreeMap<String, Vec<u8>>,
    packages: Vec<PackageId>,
    left_out: Vec<MissingFirmware>,
}

fn gather_firmware(options: &Options, apt: &Apt, wanted: &BTreeSet<String>, cache: &Path) -> Result<Firmware, Error> {
    let rules = Rules::parse(&options.firmware_list);
    let (mut files, mut packages, mut left_out) = (BTreeMap::new(), Vec::new(), Vec::new());
    let sources = match &options.firmware {
        FirmwareSource::Without => Vec::new(),
        FirmwareSource::Files(files) => files.clone(),
        FirmwareSource::Apt => {
            let mut found = Vec::new();
            for package in &rules.packages {
                match apt.download(package, None, cache) {
                    Ok(file) => found.push(file),
                    Err(Error::Apt { problem, .. }) => left_out.push(MissingFirmware {
                        package: package.clone(),
                        reason: format!(
                            "apt says {problem:?}. If it does not know the package: add `non-free-firmware` to the `Components:` line of \
                             /etc/apt/sources.list.d/debian.sources (or to the `deb` lines of /etc/apt/sources.list), run `apt-get update`, and build \
                             again"
                        ),
                    }),
                    Err(other) => return Err(other),
                }
            }
            found
        }
    };
    for source in sources {
        let before = files.len();
        firmware::take(&source, &rules, wanted, &mut files).map_err(at("reading the firmware package", &source))?;
        if files.len() > before {
            packages.push(deb::identify(&source).map_err(at("reading the firmware package", &source))?);
        }
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Firmware { files, packages, left_out })
}

/// Builds the media.
///
/// # Errors
/// [`Error`] that names what failed, on what, and what to do.
pub fn build(options: &Options) -> Result<Manifest, Error> {
    let agent = fs::read(&options.agent).map_err(at("reading the agent", &options.agent))?;
    let architecture = options.architecture;
    elf::check(&agent, architecture).map_err(|problem| Error::Agent {
        path: options.agent.clone(),
        architecture,
        problem,
    })?;
    let output = options.folder();
    fs::create_dir_all(&output).map_err(at("making the folder", &output))?;
    let scratch = tempfile::tempdir().map_err(at("making a temporary folder in", &std::env::temp_dir()))?;
    let cache = options.cache.as_deref().unwrap_or(scratch.path());
    fs::create_dir_all(cache).map_err(at("making the folder", cache))?;
    let apt = Apt::new(architecture, scratch.path())?;

    let package = match &options.kernel_package {
        Some(file) => file.clone(),
        None => {
            let (name, version) = apt.kernel_behind(&format!("linux-image-{architecture}"))?;
            tracing::info!(package = name, version, "getting the kernel package");
            apt.download(&name, Some(&version), cache)?
        }
    };
    let kernel_package = deb::identify(&package).map_err(at("reading the kernel package", &package))?;
    let mut kernel = read_kernel_package(&package)?;
    let candidates = kernel.modules.iter().map(|(n, (c, _))| (n.clone(), c.clone())).collect();
    let selection = select::select(&candidates, &kernel.builtin, &Rules::parse(&options.modules_list)).map_err(Error::Dependencies)?;
    let firmware = gather_firmware(options, &apt, &selection.firmware, cache)?;

    let mut archive = skeleton();
    let agent_sha256 = hex::encode(Sha256::digest(&agent));
    let file = |data| cpio::Node::File { data, executable: false };
    archive.insert(
        "init",
        cpio::Node::File {
            data: agent,
            executable: true,
        },
    );
    archive.insert(INDEX, file(selection.index.render().into_bytes()));
    let mut modules = Vec::new();
    for name in selection.index.names() {
        if let Some((candidate, data)) = kernel.modules.remove(name) {
            archive.insert(&select::path_in_media(&candidate.path), file(data));
            modules.push(candidate.path);
        }
    }
    modules.sort();
    let firmware_names: Vec<String> = firmware.files.keys().cloned().collect();
    for (path, data) in firmware.files {
        archive.insert(&format!("lib/firmware/{path}"), file(data));
    }

    let kernel_file = write(&output, KERNEL, |out| out.write_all(&kernel.vmlinuz))?;
    let mut unpacked_bytes = 0;
    let initramfs = write(&output, INITRAMFS, |out| {
        let mut encoder = zstd::Encoder::new(out, options.level)?;
        // The bytes depend on whether there are workers, and not on how many: one at least, so that every machine makes the same.
        encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get().clamp(1, 16)) as u32)?;
        let mut counter = Counter { inner: encoder, bytes: 0 };
        archive.write(&mut counter)?;
        unpacked_bytes = counter.bytes;
        counter.inner.finish().map(drop)
    })?;
    let total = kernel_file.bytes + initramfs.bytes;
    if total > max_bytes(architecture) {
        return Err(Error::TooLarge(architecture, total));
    }
    let manifest = Manifest {
        architecture: architecture.name().to_owned(),
        kernel_version: kernel.version,
        kernel_package,
        firmware_packages: firmware.packages,
        firmware_left_out: firmware.left_out,
        kernel: kernel_file,
        initramfs,
        agent_sha256,
        unpacked_bytes,
        modules,
        firmware: firmware_names,
    };
    write(&output, MANIFEST, |out| {
        serde_json::to_writer_pretty(&mut *out, &manifest)?;
        out.write_all(b"\n")
    })?;
    Ok(manifest)
}

/// What is there before the agent mounts anything: its console, and where things get mounted.
fn skeleton() -> cpio::Archive {
    let mut archive = cpio::Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "etc", "mnt", "lib/firmware"] {
        archive.insert(folder, cpio::Node::Directory);
    }
    for (name, mode, major, minor) in [("console", 0o600, 5, 1), ("null", 0o666, 1, 3), ("kmsg", 0o644, 1, 11)] {
        archive.insert(&format!("dev/{name}"), cpio::Node::CharDevice { mode, major, minor });
    }
    archive.insert("sbin/modprobe", cpio::Node::Symlink("/init".to_owned()));
    archive
}

struct Counter<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a file beside its place, and moves it there whole.
fn write(folder: &Path, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<OutputFile, Error> {
    let path = folder.join(name);
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(at("writing in", folder))?;
    let (bytes, digest) = {
        let mut hashing = Hashing {
            inner: io::BufWriter::with_capacity(1 << 20, temporary.as_file()),
            digest: Sha256::new(),
            bytes: 0,
        };
        fill(&mut hashing).and_then(|()| hashing.flush()).map_err(at("writing", &path))?;
        (hashing.bytes, hashing.digest)
    };
    set_readable(temporary.as_file()).map_err(at("writing", &path))?;
    temporary.persist(&path).map_err(|e| at("writing", &path)(e.error))?;
    Ok(OutputFile {
        file: name.to_owned(),
        bytes,
        sha256: hex::encode(digest.finalize()),
    })
}

/// Temporary files are private; these are served to everybody.
fn set_readable(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

struct Hashing<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
