//! BareMetalImage: where an operating system image comes from.

use agent_protocol::order::ImageFormat;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An operating system image.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
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
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalImageSpec {
    /// Where the image is served: `http://` or `https://`, without credentials.
    #[schemars(length(min = 8, max = 2048), regex(pattern = "^https?://[^\\s@$\"'`\\\\]+$"))]
    pub url: String,
    /// Digest of the bytes as served: `sha256:` or `sha512:` and lower-case hexadecimal.
    #[schemars(length(max = 135), regex(pattern = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"))]
    pub digest: String,
    /// Format of the bytes as served.
    pub format: ImageFormat,
}

/// State of an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalImageStatus {
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
