//! A libvirtd of the test's own, in session mode, with all of its folders below one temporary folder, on a Unix socket and a TLS port. As root it runs as the user
//! `nobody`, because root's libvirtd would be the system's.
//!
//! Whatever ends the test, the guests and the daemon end with it.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use power::{
    libvirt::{Address, Libvirt, Settings},
    tls::{Identity, Trust},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use sha2::{Digest, Sha256};

const NOBODY: u32 = 65_534;
/// The only client that the daemon takes.
pub const CLIENT: &str = "kube-baremetal";

/// An authority, with which servers and clients are signed.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "lab");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate and its key, in PEM, and the certificate's SHA-256.
    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String, [u8; 32]) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        // libvirt looks for the second, which elliptic curves have no use for.
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        let own = params.signed_by(&key, &self.0).expect("signed");
        (own.pem(), key.serialize_pem(), Sha256::digest(own.der()).into())
    }

    pub fn client(&self, name: &str) -> Identity {
        let (certificate, key, _) = self.sign(name, ExtendedKeyUsagePurpose::ClientAuth);
        Identity::new(certificate.as_bytes(), key.as_bytes()).expect("an identity")
    }
}

pub struct Host {
    pub authority: Authority,
    pub fingerprint: [u8; 32],
    pub port: u16,
    folder: tempfile::TempDir,
    daemon: Child,
}

impl Host {
    pub fn start() -> Self {
        // Not below $TMPDIR, which may be long: a socket's path has 107 bytes at most.
        let folder = tempfile::Builder::new().prefix("kbm-lv-").tempdir_in("/tmp").expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["run", "config/libvirt", "home", "data"] {
            fs::create_dir_all(at(name)).expect("a folder");
        }
        let authority = Authority::new();
        let (certificate, key, fingerprint) = authority.sign("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        for (name, content) in [("ca.pem", authority.pem()), ("server.pem", certificate), ("key.pem", key)] {
            fs::write(at(name), content).expect("written");
        }
        // Consoles are written by QEMU itself: virtlogd would be a second daemon that outlives the test.
        fs::write(at("config/libvirt/qemu.conf"), "stdio_handler = \"file\"\n").expect("written");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let file = |name: &str| at(name).display().to_string();
        let config = format!(
            "listen_tls = 1\nlisten_tcp = 0\nlisten_addr = \"127.0.0.1\"\ntls_port = \"{port}\"\nauth_tls = \"none\"\nauth_unix_rw = \"none\"\nca_file = \"{}\"\n\
             cert_file = \"{}\"\nkey_file = \"{}\"\ntls_allowed_dn_list = [\"CN={CLIENT}\"]\n",
            file("ca.pem"),
            file("server.pem"),
            file("key.pem")
        );
        fs::write(at("config/libvirt/libvirtd.conf"), config).expect("written");
        give(folder.path());
        let log = fs::File::create(at("libvirtd.log")).expect("a log");
        let daemon = command(folder.path(), "libvirtd")
            .arg("--listen")
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("libvirtd (`scripts/setup --power` brings it)");
        let mut host = Self {
            authority,
            fingerprint,
            port,
            folder,
            daemon,
        };
        let began = Instant::now();
        while !host.socket().exists() || std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = host.daemon.try_wait().expect("a child");
            assert!(
                began.elapsed() < Duration::from_secs(60) && ended.is_none(),
                "libvirtd does not listen: {}",
                host.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        host
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/libvirt/libvirt-sock")
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.path().join("libvirtd.log")).unwrap_or_default()).into_owned()
    }

    pub fn by_socket(&self) -> Address {
        Address::Unix(self.socket())
    }

    pub fn by_tls(&self, trust: Trust, identity: Identity) -> Address {
        Address::Tls {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            trust,
            identity,
        }
    }

    fn virsh_command(&self, driver: &str, path: &str) -> Command {
        let mut command = command(self.folder.path(), "virsh");
        command.args(["--connect", &format!("{driver}+unix:///{path}?socket={}", self.socket().display())]);
        command
    }

    /// What virsh says of QEMU's machines.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.virsh_command("qemu", "session").args(arguments).output().expect("virsh");
        assert!(
            output.status.success(),
            "virsh {arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Defines a machine of QEMU without any disk: its firmware waits for one. Its reset button works, a request to shut down is not heard.
    pub fn define(&self, name: &str, uuid: &str) {
        let path = self.folder.path().join(format!("{name}.xml"));
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        );
        fs::write(&path, xml).expect("written");
        give(&path);
        self.virsh(&["define", &path.display().to_string()]);
    }

    /// Keeps libvirt's test driver open: what its machine does is forgotten with the last connection.
    pub fn keep_test_driver(&self) -> Kept {
        let mut virsh = self
            .virsh_command("test", "default")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("virsh");
        virsh
            .stdin
            .as_mut()
            .expect("a pipe")
            .write_all(b"list --all\n")
            .expect("it listens");
        Kept(virsh)
    }

    pub fn driver(&self, address: Address, uri: &str, domain: &str) -> Libvirt {
        Libvirt::new(Settings {
            address,
            uri: uri.to_owned(),
            domain: domain.to_owned(),
        })
        .expect("good settings")
    }

    /// The guests' processes; a number counts only while its command line names this test's folder.
    fn guests(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir(self.folder.path().join("run/libvirt/qemu/run")) else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let pid: i32 = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let ours = String::from_utf8_lossy(&line).contains(&self.folder.path().display().to_string());
            (path.extension()? == "pid" && ours).then(|| Pid::from_raw(pid))?
        });
        pids.collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for guest in self.guests() {
            // It may have ended in between.
            kill_process(guest, Signal::KILL).unwrap_or_default();
        }
        let _killed = self.daemon.kill();
        let _gone = self.daemon.wait();
    }
}

/// A virsh that holds a connection.
pub struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn command(folder: &Path, program: &str) -> Command {
    let at = |name: &str| folder.join(name);
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).current_dir(folder);
    command.envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8")]);
    for (variable, name) in [
        ("HOME", "home"),
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_DATA_HOME", "data"),
        ("XDG_CACHE_HOME", "home/.cache"),
        ("XDG_STATE_HOME", "home/.state"),
    ] {
        command.env(variable, at(name));
    }
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Gives a tree to the user that runs it all.
fn give(path: &Path) {
    if !geteuid().is_root() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).expect("given");
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a folder");
        entries.for_each(|entry| give(&entry.expect("readable").path()));
    }
}
