//! What one replica does about one image: a function of the object, of what lies on its shelf, and of whether another replica's claim has gone silent.

use api::{BareMetalImage, image::ImageStore};
use lifecycle::{config::Config, image::is_stored};

/// Most replicas that are listed as holding an image.
pub(super) const MAX_STORES: usize = 64;
/// Where uploaded images come from.
pub(super) const UPLOAD: &str = "upload://";

/// What is known.
pub(super) struct Facts<'a> {
    pub image: &'a BareMetalImage,
    /// This replica.
    pub replica: &'a str,
    pub config: &'a Config,
    /// Whether the pack that the status names lies here.
    pub holds: bool,
    /// Whether the replica that has claimed the preparation was not heard of for too long.
    pub claim_lost: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Rest,
    /// The image does not go through the store (any more): take back what was said of it.
    Clear,
    /// Say that it lies here.
    Register,
    /// It does not lie here any more: take that back.
    Unregister,
    /// Get it from the replicas that have it.
    Copy { digest: String, urls: Vec<String> },
    /// Claim it, fetch it, pack it.
    Prepare,
    /// Nobody has uploaded it yet: say how.
    AwaitUpload,
}

/// See the module.
pub(super) fn step(facts: &Facts<'_>) -> Step {
    let image = facts.image;
    if image.metadata.deletion_timestamp.is_some() {
        return Step::Rest;
    }
    let status = image.status.clone().unwrap_or_default();
    if !is_stored(&image.spec, facts.config) {
        let said = status.packed.is_some() || status.preparation.is_some() || !status.stores.is_empty();
        return if said { Step::Clear } else { Step::Rest };
    }
    let listed = status.stores.iter().any(|s| s.replica == facts.replica);
    match status.packed.filter(|p| p.source_digest == image.spec.digest) {
        Some(_) if facts.holds && listed => return Step::Rest,
        Some(_) if facts.holds && status.stores.len() < MAX_STORES => return Step::Register,
        Some(_) if facts.holds => return Step::Rest,
        Some(_) if listed => return Step::Unregister,
        Some(packed) if !status.stores.is_empty() => {
            return Step::Copy {
                digest: packed.digest,
                urls: status.stores.iter().map(|ImageStore { url, .. }| url.clone()).collect(),
            };
        }
        _ => {}
    }
    if image.spec.url.starts_with(UPLOAD) {
        return match status.preparation {
            Some(claim) if claim.replica != facts.replica && !facts.claim_lost => Step::Rest,
            // One of this replica's own that it does not work on has lost its bytes.
            _ => Step::AwaitUpload,
        };
    }
    match status.preparation {
        Some(claim) if claim.replica != facts.replica && !facts.claim_lost => Step::Rest,
        _ => Step::Prepare,
    }
}

#[cfg(test)]
mod tests {
    use api::{
        BareMetalImageSpec, ImageDelivery,
        image::{PackedImage, Preparation},
    };

    use super::*;

    fn image() -> BareMetalImage {
        let mut image = BareMetalImage::new(
            "debian",
            BareMetalImageSpec {
                url: "https://host/debian.raw".to_owned(),
                digest: format!("sha256:{}", "a".repeat(64)),
                ..BareMetalImageSpec::default()
            },
        );
        image.status = Some(api::BareMetalImageStatus::default());
        image
    }

    fn judge(image: &BareMetalImage, holds: bool, claim_lost: bool) -> Step {
        let config = Config {
            image_store: true,
            ..Config::default()
        };
        step(&Facts {
            image,
            replica: "me",
            config: &config,
            holds,
            claim_lost,
        })
    }

    #[test]
    fn one_prepares_and_a_silent_one_is_succeeded() {
        let mut image = image();
        assert_eq!(judge(&image, false, false), Step::Prepare);
        let claim = |replica: &str| {
            Some(Preparation {
                replica: replica.to_owned(),
                ..Preparation::default()
            })
        };
        image.status.as_mut().unwrap().preparation = claim("other");
        assert_eq!(judge(&image, false, false), Step::Rest);
        assert_eq!(judge(&image, false, true), Step::Prepare);
        image.status.as_mut().unwrap().preparation = claim("me");
        assert_eq!(judge(&image, false, false), Step::Prepare, "it was begun before a restart");
    }

    #[test]
    fn what_one_has_the_others_copy_and_all_say_truthfully_what_they_hold() {
        let mut image = image();
        let digest = image.spec.digest.clone();
        let status = image.status.as_mut().unwrap();
        status.packed = Some(PackedImage {
            digest: "blake3:00".to_owned(),
            source_digest: digest,
            ..PackedImage::default()
        });
        assert_eq!(judge(&image, true, false), Step::Register);
        assert_eq!(judge(&image, false, false), Step::Prepare, "nobody holds it any more");
        let store = |replica: &str| ImageStore {
            replica: replica.to_owned(),
            url: format!("http://{replica}/images"),
        };
        image.status.as_mut().unwrap().stores = vec![store("other")];
        let copy = Step::Copy {
            digest: "blake3:00".to_owned(),
            urls: vec!["http://other/images".to_owned()],
        };
        assert_eq!(judge(&image, false, false), copy);
        assert_eq!(judge(&image, true, false), Step::Register);
        image.status.as_mut().unwrap().stores = vec![store("other"), store("me")];
        assert_eq!(judge(&image, true, false), Step::Rest);
        assert_eq!(judge(&image, false, false), Step::Unregister);
        // Another version: all of that is about the earlier one.
        image.spec.digest = format!("sha256:{}", "b".repeat(64));
        assert_eq!(judge(&image, true, false), Step::Prepare);
    }

    #[test]
    fn what_is_streamed_or_going_is_left_alone() {
        let mut image = image();
        image.spec.delivery = Some(ImageDelivery::Streamed);
        assert_eq!(judge(&image, false, false), Step::Rest);
        image.status.as_mut().unwrap().preparation = Some(Preparation::default());
        assert_eq!(judge(&image, false, false), Step::Clear);
        image.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(judge(&image, false, false), Step::Rest);
    }

    #[test]
    fn an_upload_is_waited_for() {
        let mut image = image();
        image.spec.url = "upload://debian".to_owned();
        assert_eq!(judge(&image, false, false), Step::AwaitUpload);
        image.status.as_mut().unwrap().preparation = Some(Preparation::default());
        assert_eq!(judge(&image, false, false), Step::Rest);
        assert_eq!(judge(&image, false, true), Step::AwaitUpload);
        image.status.as_mut().unwrap().preparation.as_mut().unwrap().replica = "me".to_owned();
        assert_eq!(judge(&image, false, false), Step::AwaitUpload, "its bytes went with the process");
    }
}
