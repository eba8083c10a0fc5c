//! A libvirtd of the test's own ([`rig::libvirtd`]) with the lab's playbook beside it.

use std::path::{Path, PathBuf};

use rig::libvirtd::Libvirtd;
use serde_json::Value;

const PLAYBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/ansible");

pub struct Host(Libvirtd);

impl Host {
    pub fn start() -> Self {
        // The user that runs it all may not be able to read this checkout.
        let prepare = |folder: &Path| {
            copy(Path::new(PLAYBOOK), &folder.join("ansible"));
            Ok(())
        };
        Self(Libvirtd::start(&[], prepare).unwrap())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.0.command(program);
        command.env("ANSIBLE_NOCOLOR", "1");
        for variable in ["ANSIBLE_LOCAL_TEMP", "ANSIBLE_REMOTE_TEMP"] {
            command.env(variable, self.0.path("home/ansible"));
        }
        let output = command.args(arguments).output();
        let output = output.unwrap_or_else(|e| panic!("{program} does not start ({e}): `make test-libvirt` installs it"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}\n{said}{complaint}\n--- libvirtd\n{}",
            output.status,
            self.0.log()
        );
        said
    }

    /// What virsh says.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        self.run("virsh", &[&["--connect", "qemu:///session"], arguments].concat())
    }

    /// The machines that `virsh list` names.
    pub fn names(&self, flags: &[&str]) -> Vec<String> {
        let said = self.virsh(&[&["list", "--name"], flags].concat());
        let mut names: Vec<String> = said.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Runs the lab's playbook; the line in which it sums up.
    pub fn playbook(&self, settings: &Value) -> String {
        let playbook = self.0.path("ansible/lab.yml").display().to_string();
        let said = self.run("ansible-playbook", &["-i", "localhost,", &playbook, "-e", &settings.to_string()]);
        let recap = said.lines().find(|l| l.contains("failed=0")).map(str::to_owned);
        recap.unwrap_or_else(|| panic!("the playbook does not sum up:\n{said}"))
    }

    /// The system's network, rendered from its template with the playbook's own defaults.
    pub fn rendered_network(&self) -> String {
        let output = self.0.path("data/network.xml").display().to_string();
        let arguments = format!("src={} dest={output}", self.0.path("ansible/templates/network.xml.j2").display());
        let values = r#"{"lab_network": "192.168.155", "lab_boot_url": "http://192.168.155.1:8080/boot/ipxe", "lab_tftp_root": "/srv/tftp/kube-baremetal"}"#;
        self.run(
            "ansible",
            &[
                "-i",
                "localhost,",
                "-c",
                "local",
                "localhost",
                "-m",
                "ansible.builtin.template",
                "-a",
                &arguments,
                "-e",
                values,
            ],
        );
        output
    }

    /// The end of what a machine said on its serial console.
    pub fn console(&self, machine: &str) -> String {
        let text = self.0.read(&format!("data/kube-baremetal/libvirt/{machine}.console.log"));
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Every file of the lab.
    pub fn lab_files(&self) -> Vec<PathBuf> {
        let (mut folders, mut files) = (vec![self.0.path("data/kube-baremetal")], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
