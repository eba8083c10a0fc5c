//! A libvirtd of the test's own ([`rig::libvirtd`]) that also listens on a TLS port and takes one client there, with an authority that signs both.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use power::{
    libvirt::{Address, Libvirt, Settings},
    tls::{Identity, Trust},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rig::libvirtd::Libvirtd;
use sha2::{Digest, Sha256};

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
    daemon: Libvirtd,
}

impl Host {
    pub fn start() -> Self {
        let authority = Authority::new();
        let (certificate, key, fingerprint) = authority.sign("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let daemon = Libvirtd::start(&["--listen"], |folder| {
            let at = |name: &str| folder.join(name);
            for (name, content) in [("ca.pem", authority.pem()), ("server.pem", certificate), ("key.pem", key)] {
                fs::write(at(name), content)?;
            }
            let config = format!(
                "listen_tls = 1\nlisten_tcp = 0\nlisten_addr = \"127.0.0.1\"\ntls_port = \"{port}\"\nauth_tls = \"none\"\nauth_unix_rw = \"none\"\nca_file = \"{}\"\n\
                 cert_file = \"{}\"\nkey_file = \"{}\"\ntls_allowed_dn_list = [\"CN={CLIENT}\"]\n",
                at("ca.pem").display(),
                at("server.pem").display(),
                at("key.pem").display()
            );
            fs::write(at("config/libvirt/libvirtd.conf"), config)?;
            Ok(())
        })
        .expect("libvirtd");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "libvirtd does not listen: {}",
                daemon.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Self {
            authority,
            fingerprint,
            port,
            daemon,
        }
    }

    pub fn log(&self) -> String {
        self.daemon.log()
    }

    pub fn by_socket(&self) -> Address {
        Address::Unix(self.daemon.socket())
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
        let mut command = self.daemon.command("virsh");
        command.args([
            "--connect",
            &format!("{driver}+unix:///{path}?socket={}", self.daemon.socket().display()),
        ]);
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
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
        );
        let path = self.daemon.write(&format!("{name}.xml"), &xml).expect("written");
        self.virsh(&["define", &path.display().to_string()]);
    }

    /// Keeps libvirt's test driver open: what its machine does is forgotten with the last connection.
    pub fn keep_test_driver(&self) -> Kept {
        let mut virsh = self
            .virsh_command("test", "default")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("virsh");
        virsh
            .stdin
            .as_mut()
            .expect("a pipe")
            .write_all(b"list --all\n")
            .expect("it listens");
        // Only when it has answered is its connection there.
        let mut output = BufReader::new(virsh.stdout.take().expect("a pipe"));
        let listed = output.by_ref().lines().map_while(Result::ok).any(|line| line.contains("running"));
        assert!(listed, "virsh ended: {}", self.log());
        Kept { virsh, _output: output }
    }

    pub fn driver(&self, address: Address, uri: &str, domain: &str) -> Libvirt {
        Libvirt::new(Settings {
            address,
            uri: uri.to_owned(),
            domain: domain.to_owned(),
        })
        .expect("good settings")
    }
}

/// A virsh that holds a connection.
pub struct Kept {
    virsh: Child,
    /// It would end with it.
    _output: BufReader<ChildStdout>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _killed = self.virsh.kill();
        let _gone = self.virsh.wait();
    }
}
