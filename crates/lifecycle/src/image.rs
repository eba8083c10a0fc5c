//! How an image reaches machines: straight from its URL, or packed out of the image store; and if neither is possible yet, why not.
//!
//! Not here: what is wrong with a URL or a digest as such (the operator's image controller says that), and preparing anything (netboot's image store does).

use agent_protocol::order::{ImageFormat, PackedSource};
use api::{BareMetalImage, BareMetalImageSpec, ImageDelivery, conditions, image::ImageStore};

use crate::config::Config;

/// Most stores that an order names; the agent adds its own servers.
const MAX_STORES: usize = 8;
/// The reason of whoever waits for the image store.
pub const PREPARING: &str = "ImagePreparing";

/// The way an image takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// From its URL, as it is served there.
    Stream,
    /// Packed. An agent that knows only whole images takes the URL.
    Packed(PackedSource),
    /// Not yet.
    Wait {
        /// CamelCase word.
        reason: &'static str,
        /// Sentence with the remedy.
        message: String,
    },
}

/// Whether it goes through the image store.
pub fn is_stored(spec: &BareMetalImageSpec, config: &Config) -> bool {
    match spec.delivery {
        Some(ImageDelivery::Streamed) => false,
        Some(ImageDelivery::Prepared) => true,
        None => config.image_store || !(spec.url.starts_with("http://") || spec.url.starts_with("https://")),
    }
}

/// Where a packed image lies, of which `url` names the folder or the manifest.
pub fn packed_base(url: &str) -> &str {
    url.strip_suffix("/manifest.json").unwrap_or(url).trim_end_matches('/')
}

/// The same for everywhere that an image comes from: what `url` names, then what `mirrors` do.
pub fn bases(spec: &BareMetalImageSpec) -> Vec<String> {
    let all = std::iter::once(&spec.url).chain(&spec.mirrors);
    all.map(|url| packed_base(url).to_owned()).collect()
}

/// The way that this image takes at present.
pub fn way(image: &BareMetalImage, config: &Config) -> Way {
    let spec = &image.spec;
    if !is_stored(spec, config) {
        if spec.format != ImageFormat::Packed {
            return Way::Stream;
        }
        return Way::Packed(PackedSource {
            digest: spec.digest.clone(),
            urls: bases(spec),
        });
    }
    let name = image.metadata.name.as_deref().unwrap_or_default();
    if !config.image_store {
        return Way::Wait {
            reason: "NoImageStore",
            message: format!(
                "BareMetalImage {name} goes through the image store, and there is none here: give netboot a folder for it (--image-store, the chart's imageStore.enabled), or serve the image by http or https and set spec.delivery to Streamed"
            ),
        };
    }
    let status = image.status.as_ref();
    let packed = status.and_then(|s| s.packed.as_ref()).filter(|p| p.source_digest == spec.digest);
    let stores = status.map(|s| s.stores.as_slice()).unwrap_or_default();
    if let Some(packed) = packed.filter(|_| !stores.is_empty()) {
        let source = PackedSource {
            digest: packed.digest.clone(),
            urls: Vec::new(),
        };
        let url = |store: &ImageStore| Some(format!("{}/{}", store.url, source.hex()?));
        let urls = stores.iter().filter_map(url).take(MAX_STORES).collect();
        return Way::Packed(PackedSource { urls, ..source });
    }
    let failed = status
        .and_then(|s| s.conditions.iter().find(|c| c.type_ == conditions::PREPARED))
        .filter(|c| c.status == "False" && c.observed_generation == image.metadata.generation && c.reason != PREPARING);
    match failed {
        Some(condition) => Way::Wait {
            reason: "ImagePreparationFailed",
            message: format!("BareMetalImage {name} could not be prepared: {}", condition.message),
        },
        None => Way::Wait {
            reason: PREPARING,
            message: format!(
                "BareMetalImage {name} is being fetched, checked and packed by the image store; its status.preparation says how far that is"
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use api::image::PackedImage;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn image(url: &str, delivery: Option<ImageDelivery>) -> BareMetalImage {
        let spec = BareMetalImageSpec {
            url: url.to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            delivery,
            ..BareMetalImageSpec::default()
        };
        let mut image = BareMetalImage::new("debian", spec);
        image.metadata.generation = Some(3);
        image
    }

    fn reason(way: &Way) -> &str {
        match way {
            Way::Wait { reason, .. } => reason,
            Way::Stream | Way::Packed(_) => "",
        }
    }

    const HTTP: &str = "https://host/debian.raw.zst";

    #[test]
    fn without_a_store_machines_fetch_it_themselves_and_what_they_cannot_fetch_says_so() {
        let config = Config::default();
        assert_eq!(way(&image(HTTP, None), &config), Way::Stream);
        assert_eq!(way(&image(HTTP, Some(ImageDelivery::Streamed)), &config), Way::Stream);
        assert_eq!(reason(&way(&image(HTTP, Some(ImageDelivery::Prepared)), &config)), "NoImageStore");
        assert_eq!(reason(&way(&image("oci://registry/debian:13", None), &config)), "NoImageStore");
    }

    #[test]
    fn a_packed_image_is_streamed_by_its_manifest() {
        let mut packed = image("https://host/debian/manifest.json", Some(ImageDelivery::Streamed));
        packed.spec.format = ImageFormat::Packed;
        packed.spec.digest = format!("blake3:{}", "b".repeat(64));
        let Way::Packed(source) = way(&packed, &Config::default()) else {
            panic!("it is packed");
        };
        assert_eq!(
            (source.digest.as_str(), source.urls.as_slice()),
            (packed.spec.digest.as_str(), &["https://host/debian".to_owned()][..])
        );
    }

    #[test]
    fn with_a_store_it_waits_until_a_replica_holds_what_the_spec_names() {
        let config = Config {
            image_store: true,
            ..Config::default()
        };
        assert_eq!(way(&image(HTTP, Some(ImageDelivery::Streamed)), &config), Way::Stream);
        let mut prepared = image(HTTP, None);
        assert_eq!(reason(&way(&prepared, &config)), PREPARING);
        let digest = format!("blake3:{}", "c".repeat(64));
        let status = prepared.status.get_or_insert_default();
        status.packed = Some(PackedImage {
            digest: digest.clone(),
            source_digest: prepared.spec.digest.clone(),
            ..PackedImage::default()
        });
        assert_eq!(reason(&way(&prepared, &config)), PREPARING, "nobody holds it");
        prepared.status.as_mut().unwrap().stores.push(ImageStore {
            replica: "a".to_owned(),
            url: "http://192.0.2.1:8080/images".to_owned(),
        });
        let Way::Packed(source) = way(&prepared, &config) else {
            panic!("it is prepared");
        };
        assert_eq!(source.digest, digest);
        assert_eq!(source.urls, [format!("http://192.0.2.1:8080/images/{}", "c".repeat(64))]);
        // Another version is named: what is packed is not that.
        prepared.spec.digest = format!("sha256:{}", "d".repeat(64));
        assert_eq!(reason(&way(&prepared, &config)), PREPARING);
    }

    #[test]
    fn a_failed_preparation_is_told_until_the_spec_changes() {
        let config = Config {
            image_store: true,
            ..Config::default()
        };
        let mut failed = image(HTTP, None);
        let status = failed.status.get_or_insert_default();
        conditions::set(
            &mut status.conditions,
            conditions::PREPARED,
            false,
            "DigestMismatch",
            "the bytes are others. Correct spec.digest",
            Some(3),
            &Time(jiff::Timestamp::UNIX_EPOCH),
        );
        let Way::Wait { reason, message } = way(&failed, &config) else {
            panic!("it waits");
        };
        assert_eq!(reason, "ImagePreparationFailed");
        assert!(message.contains("debian") && message.contains("Correct spec.digest"), "{message}");
        failed.metadata.generation = Some(4);
        assert!(matches!(way(&failed, &config), Way::Wait { reason: PREPARING, .. }));
    }
}
