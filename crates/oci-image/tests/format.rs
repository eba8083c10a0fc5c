//! Writes images of a stand-in program and reads them back with nothing of the writer's: only tar, gzip, SHA-256 and plain JSON.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use oci_image::{
    Architecture, Error,
    archive::{self, Recipe},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A static ELF program: header, one program header, and code that only ends (`mov edi, 7; mov eax, 60; syscall`). It is not run here.
fn stand_in(machine: u16, header_type: u32) -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend(2_u16.to_le_bytes());
    elf.extend(machine.to_le_bytes());
    elf.extend(1_u32.to_le_bytes());
    for word in [0x40_0078_u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(header_type.to_le_bytes());
    elf.extend(5_u32.to_le_bytes());
    let code = [0xbf, 7, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let size = 0x78 + code.len() as u64;
    for word in [0, 0x40_0000, 0x40_0000, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

const AMD64: u16 = 62;
const ARM64: u16 = 183;
const LOAD: u32 = 1;
const INTERP: u32 = 3;

struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.put("amd64", &stand_in(AMD64, LOAD));
        this.put("arm64", &stand_in(ARM64, LOAD));
        this.put("certificates/b.crt", b"-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----");
        this.put("certificates/a.crt", b"-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n");
        this.put("certificates/README", b"not one");
        this.put("media/amd64/vmlinuz", b"kernel");
        this.put("media/amd64/initramfs.zst", b"initramfs");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, contents: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn recipe(&self, architectures: &[Architecture]) -> Recipe {
        Recipe {
            name: "registry.example/a/kube-baremetal:1.2".parse().unwrap(),
            created: jiff::Timestamp::from_second(1_700_000_000).unwrap(),
            labels: (b'a'..=b'z').map(|b| (format!("label.{}", b as char), "x".to_owned())).collect(),
            programs: architectures.iter().map(|&a| (a, self.path(a.name()))).collect(),
            certificates: Some(self.path("certificates")),
            media: Some(self.path("media")),
        }
    }
}

/// Everything in an archive: path to contents.
fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            files.insert(path, bytes);
        }
    }
    files
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A reader that believes nothing: every descriptor is followed and checked.
struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    fn read(path: &Path) -> Self {
        let files = unpack(&std::fs::read(path).unwrap());
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        for (path, bytes) in files.iter().filter(|(p, _)| p.starts_with("blobs/")) {
            assert_eq!(
                path.replacen("blobs/sha256/", "sha256:", 1),
                sha256(bytes),
                "a blob is named by its digest"
            );
        }
        Self(files)
    }

    fn follow(&self, descriptor: &Value, media_type: &str) -> &[u8] {
        assert_eq!(descriptor["mediaType"], media_type);
        let digest = descriptor["digest"].as_str().unwrap();
        let blob = &self.0[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(descriptor["size"], blob.len());
        blob
    }

    fn document(&self, descriptor: &Value, media_type: &str) -> Value {
        serde_json::from_slice(self.follow(descriptor, media_type)).unwrap()
    }

    /// The images by architecture: manifest's layers as plain tars, and the configuration.
    fn images(&self) -> BTreeMap<String, (Vec<Vec<u8>>, Value)> {
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
        let top: Value = serde_json::from_slice(&self.0["index.json"]).unwrap();
        assert_eq!((&top["schemaVersion"], &top["mediaType"]), (&2.into(), &INDEX.into()));
        let [image] = top["manifests"].as_array().unwrap().as_slice() else {
            panic!("one image expected: {top}");
        };
        assert_eq!(image["annotations"]["org.opencontainers.image.ref.name"], "1.2");
        assert_eq!(
            image["annotations"]["io.containerd.image.name"],
            "registry.example/a/kube-baremetal:1.2"
        );
        let index = self.document(image, INDEX);
        let mut images = BTreeMap::new();
        for descriptor in index["manifests"].as_array().unwrap() {
            let manifest = self.document(descriptor, MANIFEST);
            assert_eq!((&manifest["schemaVersion"], &manifest["mediaType"]), (&2.into(), &MANIFEST.into()));
            let config = self.document(&manifest["config"], "application/vnd.oci.image.config.v1+json");
            assert_eq!(descriptor["platform"]["os"], "linux");
            assert_eq!(descriptor["platform"]["architecture"], config["architecture"]);
            let plain: Vec<Vec<u8>> = manifest["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|layer| {
                    let blob = self.follow(layer, "application/vnd.oci.image.layer.v1.tar+gzip");
                    let mut tar = Vec::new();
                    flate2::read::GzDecoder::new(blob).read_to_end(&mut tar).unwrap();
                    tar
                })
                .collect();
            let diff_ids: Vec<String> = plain.iter().map(|tar| sha256(tar)).collect();
            assert_eq!(config["rootfs"], serde_json::json!({ "type": "layers", "diff_ids": diff_ids }));
            assert_eq!(config["history"].as_array().unwrap().len(), plain.len());
            images.insert(config["architecture"].as_str().unwrap().to_owned(), (plain, config));
        }
        images
    }
}

#[test]
fn every_digest_size_and_setting_is_right() {
    let shop = Workshop::new();
    let output = shop.path("image.tar");
    let built = archive::write(&shop.recipe(&[Architecture::Amd64]), &output).unwrap();
    let images = Layout::read(&output).images();
    assert_eq!(images.keys().collect::<Vec<_>>(), ["amd64"]);
    assert!(std::fs::read_to_string(&output).is_err() && built.digest.starts_with("sha256:"));
    let (layers, config) = &images["amd64"];
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/kube-baremetal"]));
    assert_eq!(config["config"]["Labels"]["label.q"], "x");
    let env: Vec<&str> = config["config"]["Env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e.as_str().unwrap())
        .collect();
    assert_eq!(
        env,
        [
            "PATH=/usr/bin",
            "KBM_DATA_DIR=/var/lib/kube-baremetal",
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
            "KBM_MEDIA_DIR=/usr/share/kube-baremetal/bootmedia"
        ]
    );

    let mut root = BTreeMap::new();
    for tar in layers {
        for entry in tar::Archive::new(Cursor::new(tar)).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!(header.uid().unwrap(), header.gid().unwrap());
            let facts = (header.mode().unwrap(), header.uid().unwrap(), bytes);
            let path = entry.path().unwrap().display().to_string();
            let parent = Path::new(&path).parent().unwrap().display().to_string();
            assert!(
                parent.is_empty() || root.contains_key(&format!("{parent}/")),
                "{path} before its folder"
            );
            assert!(root.insert(path.clone(), facts).is_none(), "{path} twice");
        }
    }
    let (mode, owner, program) = &root["usr/bin/kube-baremetal"];
    assert_eq!((*mode, *owner, program), (0o755, 0, &stand_in(AMD64, LOAD)));
    assert_eq!((root["tmp/"].0, root["tmp/"].1), (0o1777, 0));
    assert_eq!(
        (root["var/lib/kube-baremetal/"].0, root["var/lib/kube-baremetal/"].1),
        (0o700, 65_532)
    );
    let bundle = String::from_utf8(root["etc/ssl/certs/ca-certificates.crt"].2.clone()).unwrap();
    assert!(bundle.find("\na\n").unwrap() < bundle.find("\nb\n").unwrap() && !bundle.contains("----------BEGIN"));
    assert_eq!(root["usr/share/kube-baremetal/bootmedia/amd64/vmlinuz"].2, b"kernel");
    let writable: Vec<&String> = root.iter().filter(|(_, f)| f.1 != 0 || f.0 & 0o022 != 0).map(|(p, _)| p).collect();
    assert_eq!(writable, ["tmp/", "var/lib/kube-baremetal/"], "nothing else may be written to");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let (one, two) = (Workshop::new(), Workshop::new());
    let old = std::time::SystemTime::UNIX_EPOCH;
    std::fs::File::options()
        .write(true)
        .open(two.path("amd64"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    for shop in [&one, &two] {
        archive::write(&shop.recipe(&[Architecture::Amd64, Architecture::Arm64]), &shop.path("image.tar")).unwrap();
    }
    assert_eq!(
        std::fs::read(one.path("image.tar")).unwrap(),
        std::fs::read(two.path("image.tar")).unwrap()
    );
}

#[test]
fn a_second_architecture_shares_all_but_the_program() {
    let shop = Workshop::new();
    let output = shop.path("image.tar");
    archive::write(&shop.recipe(&[Architecture::Arm64, Architecture::Amd64]), &output).unwrap();
    let images = Layout::read(&output).images();
    assert_eq!(images.keys().collect::<Vec<_>>(), ["amd64", "arm64"]);
    let (amd64, arm64) = (&images["amd64"].0, &images["arm64"].0);
    assert_eq!((amd64.len(), &amd64[..2]), (3, &arm64[..2]));
    assert_ne!(amd64[2], arm64[2]);
}

#[test]
fn a_bare_image_has_the_program_and_says_nothing_of_what_it_lacks() {
    let shop = Workshop::new();
    let output = shop.path("image.tar");
    let mut recipe = shop.recipe(&[Architecture::Amd64]);
    (recipe.certificates, recipe.media) = (None, None);
    archive::write(&recipe, &output).unwrap();
    let (layers, config) = Layout::read(&output).images().remove("amd64").unwrap();
    assert_eq!(layers.len(), 2);
    assert_eq!(config["config"]["Env"].as_array().unwrap().len(), 2, "{config}");
}

#[test]
fn what_would_not_run_is_refused_and_nothing_is_left() {
    let shop = Workshop::new();
    let refused = |contents: &[u8]| {
        shop.put("amd64", contents);
        let output = shop.path("image.tar");
        let error = archive::write(&shop.recipe(&[Architecture::Amd64]), &output).unwrap_err();
        assert!(matches!(error, Error::Program { .. }), "{error}");
        assert!(!output.exists());
        error.to_string()
    };
    assert!(refused(&stand_in(ARM64, LOAD)).contains("another processor"));
    assert!(refused(&stand_in(AMD64, INTERP)).contains("linked dynamically"));
    assert!(refused(b"#!/bin/sh\n").contains("no ELF"));
    assert!(refused(&stand_in(AMD64, LOAD)[..100]).contains("cut off"));
    let host = std::fs::read("/proc/self/exe").unwrap();
    assert!(refused(&host).contains(if cfg!(target_arch = "x86_64") {
        "linked dynamically"
    } else {
        "another processor"
    }));
}

#[test]
fn folders_that_do_not_hold_what_they_should_are_refused() {
    let shop = Workshop::new();
    shop.put("empty/README", b"");
    shop.put("half/arm64/initramfs.zst", b"");
    shop.put("wrong/x.crt", b"PRIVATE KEY");
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = shop.recipe(&[Architecture::Amd64]);
        change(&mut recipe);
        archive::write(&recipe, &shop.path("image.tar")).unwrap_err().to_string()
    };
    assert!(refused(&|r| r.media = Some(shop.path("empty"))).contains("has no folder of an architecture"));
    assert!(refused(&|r| r.media = Some(shop.path("half"))).contains("arm64 has no vmlinuz"));
    assert!(refused(&|r| r.certificates = Some(shop.path("empty"))).contains("holds no *.crt"));
    assert!(refused(&|r| r.certificates = Some(shop.path("wrong"))).contains("no certificate"));
    assert!(refused(&|r| r.certificates = Some(shop.path("absent"))).contains("absent"));
    assert!(refused(&|r| r.programs.clear()).contains("--program"));
}
