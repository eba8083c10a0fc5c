//! BareMetalImage: where an operating system image comes from, and how far the image store is with it.
//!
//! The spec is the administrators'. Of the status, the operator writes the condition `Ready`; everything else is netboot's image store's, whose replicas agree on it by compare and swap.

use agent_protocol::order::ImageFormat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::LocalSecretName;

/// An operating system image.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalImage",
    plural = "baremetalimages",
    singular = "baremetalimage",
    shortname = "bmimg",
    category = "baremetal",
    status = "BareMetalImageStatus",
    derive = "PartialEq",
    doc = "An immutable operating system image: where it comes from, its digest and its format.",
    printcolumn = r#"{"name":"Format","type":"string","jsonPath":".spec.format"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.url"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.preparation.text"}"#,
    printcolumn = r#"{"name":"Disk","type":"integer","jsonPath":".status.packed.diskBytes","priority":1}"#,
    printcolumn = r#"{"name":"Stored","type":"integer","jsonPath":".status.packed.storedBytes","priority":1}"#,
    printcolumn = r#"{"name":"Packed","type":"string","jsonPath":".status.packed.digest","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("(self.spec.format == 'Packed') == self.spec.digest.startsWith('blake3:')")
        .message("spec.format Packed goes with a blake3: digest, that of manifest.json; every other format goes with sha256: or sha512: of the file"),
    validation = Rule::new("!has(self.spec.pullSecretRef) || self.spec.url.startsWith('oci://')")
        .message("spec.pullSecretRef is for oci:// registries only"),
    validation = Rule::new("!has(self.spec.mirrors) || self.spec.url.startsWith('http')")
        .message("spec.mirrors goes with an http:// or https:// URL: registries and uploads have no mirrors"),
    validation = Rule::new("!has(self.spec.delivery) || self.spec.delivery != 'Streamed' || self.spec.url.startsWith('http')")
        .message("spec.delivery Streamed needs an http:// or https:// URL: what comes from a registry or was uploaded goes through the image store"),
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalImageSpec {
    /// Where the image comes from. `http://` or `https://`, without credentials; of a packed image the URL of its folder or its `manifest.json`. `oci://registry/repository:tag` or
    /// `oci://registry/repository@sha256:...`: an artifact one of whose layers is the file that `digest` names, or a packed image. `upload://name`: uploaded by `kube-baremetal image upload`.
    #[schemars(
        length(min = 8, max = 2048),
        regex(
            pattern = "^(https?://[^\\s@$\"'`\\\\]+|oci://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})|upload://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)$"
        )
    )]
    pub url: String,
    /// Further URLs of the very same bytes, asked in this order when `url` does not answer, falls silent or breaks off: what came so far is kept. The digest is over all of it, wherever it came
    /// from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 8, max = 2048), regex(pattern = "^https?://[^\\s@$\"'`\\\\]+$"))
    )]
    pub mirrors: Vec<String>,
    /// Digest of the bytes as served: `sha256:` or `sha512:` and lower-case hexadecimal. Of a packed image `blake3:`, over its `manifest.json`.
    #[schemars(
        length(max = 135),
        regex(pattern = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|blake3:[0-9a-f]{64})$")
    )]
    pub digest: String,
    /// Format of the bytes as served.
    pub format: ImageFormat,
    /// How it reaches machines. Left out: through the image store where there is one, else straight from the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<ImageDelivery>,
    /// Credentials for the registry of an `oci://` URL: a Secret of the type kubernetes.io/dockerconfigjson in netboot's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret_ref: Option<LocalSecretName>,
}

/// How an image reaches machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImageDelivery {
    /// Fetched once, checked and packed by the image store; machines fetch what differs from there. Instances wait until it is prepared.
    Prepared,
    /// Each machine fetches the whole of it from the URL.
    Streamed,
}

/// State of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalImageStatus {
    /// `Ready`: a machine could have it now. `Prepared`: the image store has it, or says why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The image as the store holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedImage>,
    /// Who prepares it, and how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<Preparation>,
    /// The replicas of netboot that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["replica"]))]
    pub stores: Vec<ImageStore>,
}

/// A packed image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackedImage {
    /// `blake3:` and the digest of its manifest, which names it.
    pub digest: String,
    /// The `spec.digest` that it was made of.
    pub source_digest: String,
    /// Size of the disk that it describes.
    pub disk_bytes: u64,
    /// Size of what a machine has to fetch at most.
    pub stored_bytes: u64,
    /// Sector size that its partition table counts in; 0: it fits any disk.
    pub sector_bytes: u32,
}

/// What a preparation is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PreparationPhase {
    /// Fetching, checking and packing, all at once.
    #[default]
    Packing,
    /// It failed, and is tried again after a pause.
    Retrying,
}

/// A preparation that goes on. The replica that holds it writes it every few seconds; one that does not for a minute has lost it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preparation {
    /// Which replica of netboot.
    pub replica: String,
    /// Goes up with every write, whatever clocks say.
    pub heartbeat: u64,
    /// What it does.
    pub phase: PreparationPhase,
    /// Bytes of the source that have come.
    #[serde(default)]
    pub done_bytes: u64,
    /// Bytes of the source in all; 0 where nobody knows.
    #[serde(default)]
    pub total_bytes: u64,
    /// Tries that failed.
    #[serde(default)]
    pub failures: u32,
    /// The same for people: `Packing 42%, 110 MiB/s`.
    pub text: String,
}

/// A replica of netboot that holds an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStore {
    /// Its name.
    pub replica: String,
    /// Where its images are: `http://host:port/images`. The image lies below it, under the hexadecimal digits of its digest.
    pub url: String,
}
