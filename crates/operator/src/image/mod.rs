//! Images: is what was declared usable at all?
//!
//! This looks only at what the object says, of which netboot's image store wrote a part; nothing is fetched. What the schema already refuses is checked again, since an object may have been
//! stored under an older schema.

use std::sync::Arc;

use agent_protocol::order::ImageFormat;
use api::{BareMetalImage, BareMetalImageSpec, BareMetalImageStatus, conditions};
use kube::ResourceExt;
use lifecycle::{
    config::Config,
    image::{Way, way},
};

use crate::{
    cache::Key,
    error::Result,
    queue::Next,
    world::{World, now},
};

/// What is wrong with an image: a reason and a sentence.
type Fault = (&'static str, String);

fn check_http(field: &str, url: &str) -> Result<(), Fault> {
    let bad = |problem: String| {
        let or = if field == "spec.url" {
            "; or as oci://registry/repository:tag"
        } else {
            ""
        };
        let hint = format!("write it as http://host/path or https://host/path, without user name, query secrets or fragment{or}");
        ("InvalidURL", format!("{field} {problem}; {hint}"))
    };
    let uri: http::Uri = url.parse().map_err(|e| bad(format!("is not a URL ({e})")))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(bad("has none of the schemes http, https and oci".to_owned()));
    }
    match uri.authority() {
        None => return Err(bad("names no host".to_owned())),
        Some(authority) if authority.as_str().contains('@') => return Err(bad("carries credentials".to_owned())),
        Some(authority) if authority.host().is_empty() => return Err(bad("names no host".to_owned())),
        Some(_) => {}
    }
    if url.chars().any(|c| c.is_control() || c.is_whitespace() || "\"'`\\$".contains(c)) {
        return Err(bad("has a character that must be percent-encoded".to_owned()));
    }
    Ok(())
}

fn check(spec: &BareMetalImageSpec) -> Result<(), Fault> {
    // What a registry or an upload is called, the store reads.
    if !spec.url.starts_with("oci://") && !spec.url.starts_with("upload://") {
        check_http("spec.url", &spec.url)?;
    }
    for mirror in &spec.mirrors {
        check_http("spec.mirrors", mirror)?;
    }
    let digits = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let fine = match (spec.digest.split_once(':'), spec.format) {
        (Some(("blake3", hex)), ImageFormat::Packed) => digits(hex, 64),
        (_, ImageFormat::Packed) => false,
        (Some(("sha256", hex)), _) => digits(hex, 64),
        (Some(("sha512", hex)), _) => digits(hex, 128),
        _ => false,
    };
    if !fine {
        let hint = if spec.format == ImageFormat::Packed {
            "write blake3: and the 64 lower-case hexadecimal digits that `kube-baremetal image inspect` shows of the packed image"
        } else {
            "write sha256: and 64, or sha512: and 128 lower-case hexadecimal digits, as sha256sum prints them for the file that the URL serves"
        };
        return Err(("InvalidDigest", format!("spec.digest {:?} is not a digest; {hint}", spec.digest)));
    }
    Ok(())
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(image) = world.images.get(&key) else {
        return Ok(Next::Rest);
    };
    if image.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Rest);
    }
    let status = world.timed("BareMetalImage", || decide(&image, &world.config.lifecycle));
    if image.status.as_ref() == Some(&status) {
        return Ok(Next::Rest);
    }
    world
        .replace_status(&BareMetalImage {
            status: Some(status),
            ..image.as_ref().clone()
        })
        .await?;
    Ok(Next::Rest)
}

fn decide(image: &BareMetalImage, config: &Config) -> BareMetalImageStatus {
    let mut status = image.status.clone().unwrap_or_default();
    let (ready, reason, message) = match check(&image.spec).map(|()| way(image, config)) {
        Ok(Way::Stream) => (
            true,
            "Declared",
            "URL, digest and format are well-formed; the bytes are checked against the digest when a machine fetches them".to_owned(),
        ),
        Ok(Way::Packed(source)) => (
            true,
            "Prepared",
            format!("Machines fetch it packed, as {}, and check each of its chunks", source.digest),
        ),
        Ok(Way::Wait { reason, message }) => (false, reason, message),
        Err((reason, message)) => (false, reason, format!("BareMetalImage {}: {message}", image.name_any())),
    };
    conditions::set(
        &mut status.conditions,
        conditions::READY,
        ready,
        reason,
        &message,
        image.metadata.generation,
        &now(),
    );
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str, digest: &str) -> BareMetalImageSpec {
        BareMetalImageSpec {
            url: url.to_owned(),
            digest: digest.to_owned(),
            format: ImageFormat::Raw,
            ..BareMetalImageSpec::default()
        }
    }

    #[test]
    fn what_no_machine_could_fetch_is_named() {
        let good = format!("sha256:{}", "a".repeat(64));
        assert_eq!(check(&spec("http://10.0.2.2:8080/debian.raw", &good)), Ok(()));
        assert_eq!(
            check(&spec("https://[2001:db8::1]/x.qcow2", &format!("sha512:{}", "0".repeat(128)))),
            Ok(())
        );
        for url in [
            "ftp://host/x",
            "file:///etc/passwd",
            "http://user:secret@host/x",
            "http:///x",
            "http://host/a b",
            "http://host/${uuid}",
            "http://host/`id`",
            "",
        ] {
            assert_eq!(check(&spec(url, &good)).unwrap_err().0, "InvalidURL", "{url}");
        }
        let mirrored = |mirror: &str| BareMetalImageSpec {
            mirrors: vec!["https://mirror.example/x".to_owned(), mirror.to_owned()],
            ..spec("http://host/x", &good)
        };
        assert_eq!(check(&mirrored("http://[2001:db8::2]/x")), Ok(()));
        let (reason, message) = check(&mirrored("ftp://host/x")).unwrap_err();
        assert!(reason == "InvalidURL" && message.starts_with("spec.mirrors "), "{message}");
        for digest in ["", "md5:00", "sha256:00", &format!("sha256:{}", "A".repeat(64)), &"a".repeat(64)] {
            assert_eq!(check(&spec("http://host/x", digest)).unwrap_err().0, "InvalidDigest", "{digest}");
        }
        let packed = |digest: &str| BareMetalImageSpec {
            format: ImageFormat::Packed,
            ..spec("oci://registry.example/debian:13", digest)
        };
        assert_eq!(check(&packed(&format!("blake3:{}", "a".repeat(64)))), Ok(()));
        assert_eq!(check(&packed(&good)).unwrap_err().0, "InvalidDigest");
    }

    #[test]
    fn the_condition_does_not_flap() {
        let mut image = BareMetalImage::new("debian", spec("http://host/x", &format!("sha256:{}", "a".repeat(64))));
        let config = Config::default();
        image.status = Some(decide(&image, &config));
        assert_eq!(image.status, Some(decide(&image, &config)));
        assert!(conditions::is_true(&image.status.as_ref().unwrap().conditions, conditions::READY));
    }
}
