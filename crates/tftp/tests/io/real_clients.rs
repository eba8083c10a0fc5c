//! Clients that others wrote: tftp-hpa, atftp and curl from Debian. A program that is missing is a failure, because the test would say nothing.

use std::{
    path::Path,
    process::{Command, Output},
};

use tftp::PortMode;

use crate::running::{Running, assets, content};

const MODES: [PortMode; 2] = [PortMode::PerTransfer, PortMode::Single];

fn run(program: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new("timeout")
        .arg("120")
        .arg(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .ok()
        .filter(|output| output.status.code() != Some(127))
        .unwrap_or_else(|| panic!("{program} is not installed: `scripts/setup` brings it"))
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

struct Place {
    server: Running,
    folder: tempfile::TempDir,
    content: bytes::Bytes,
}

impl Place {
    fn new(mode: PortMode) -> Self {
        let content = content(1_234_567);
        let server = Running::start("127.0.0.1:0", assets(&[("boot/ipxe.efi", content.clone())]), mode, |_| {});
        Self {
            server,
            folder: tempfile::tempdir().expect("a folder"),
            content,
        }
    }

    fn port(&self) -> String {
        self.server.address.port().to_string()
    }

    fn check(&self, what: &str, output: &Output) {
        let got = std::fs::read(self.folder.path().join("got")).unwrap_or_else(|e| panic!("{what}: {e}: {}", said(output)));
        assert!(
            got == self.content,
            "{what}: {} bytes of {}: {}",
            got.len(),
            self.content.len(),
            said(output)
        );
        std::fs::remove_file(self.folder.path().join("got")).expect("removed");
    }
}

#[test]
fn tftp_hpa() {
    for mode in MODES {
        let place = Place::new(mode);
        let port = place.port();
        let output = run(
            "tftp",
            place.folder.path(),
            &["-m", "binary", "127.0.0.1", &port, "-c", "get", "boot/ipxe.efi", "got"],
        );
        place.check("tftp-hpa", &output);
        // Its default is netascii, in which it would store other bytes.
        let output = run(
            "tftp",
            place.folder.path(),
            &["127.0.0.1", &port, "-c", "get", "boot/ipxe.efi", "got"],
        );
        assert!(said(&output).contains("only the mode octet"), "{}", said(&output));
        std::fs::write(place.folder.path().join("mine"), "x").expect("written");
        let output = run(
            "tftp",
            place.folder.path(),
            &["-m", "binary", "127.0.0.1", &port, "-c", "put", "mine", "boot/ipxe.efi"],
        );
        assert!(said(&output).contains("takes no files"), "{}", said(&output));
        assert_eq!(place.server.snapshot().finished, 1);
    }
}

#[test]
fn atftp() {
    for mode in MODES {
        let place = Place::new(mode);
        let port = place.port();
        for options in [
            &[][..],
            &["--option", "blksize 1468"],
            &["--option", "blksize 1468", "--option", "windowsize 16", "--option", "tsize 0"],
            &["--option", "blksize 8192", "--option", "windowsize 64"],
            &["--option", "blksize 65464", "--option", "timeout 3"],
        ] {
            let arguments = [options, &["--get", "-r", "boot/ipxe.efi", "-l", "got", "127.0.0.1", &port]].concat();
            let output = run("atftp", place.folder.path(), &arguments);
            place.check(&format!("atftp {options:?} {mode:?}"), &output);
        }
        let output = run(
            "atftp",
            place.folder.path(),
            &["--get", "-r", "boot/none", "-l", "got", "127.0.0.1", &port],
        );
        assert!(said(&output).contains("no such file"), "{}", said(&output));
    }
}

#[test]
fn curl() {
    for mode in MODES {
        let place = Place::new(mode);
        let url = format!("tftp://127.0.0.1:{}/boot/ipxe.efi", place.port());
        for options in [
            &[][..],
            &["--tftp-blksize", "1468"],
            &["--tftp-blksize", "65464"],
            &["--tftp-no-options"],
        ] {
            let output = run(
                "curl",
                place.folder.path(),
                &[&["-sS", "-o", "got"], options, &[url.as_str()]].concat(),
            );
            assert!(output.status.success(), "{options:?}: {}", said(&output));
            place.check(&format!("curl {options:?} {mode:?}"), &output);
        }
        let output = run("curl", place.folder.path(), &["-sS", "-o", "got", &url.replace("ipxe", "none")]);
        assert_eq!(output.status.code(), Some(68), "file not found: {}", said(&output));
    }
}
