//! The resource types of Kube BareMetal, group `kube-baremetal.io`, version `v1alpha1`.
//!
//! One module per kind. Who writes which part:
//!
//! | kind | spec | status |
//! |---|---|---|
//! | [`BareMetalDiscovery`] | nobody | netboot, all of it in one write (no status subresource) |
//! | [`BareMetalHardware`] | people and policies; `claimRef` by the operator | operator |
//! | [`BareMetalHardwareClass`] | admins | none |
//! | [`BareMetalInstance`] | tenants; `hardwareName` by the operator, once | operator |
//! | [`BareMetalImage`] | admins | operator: the condition `Ready`; netboot's image store: all else |
//! | [`BareMetalNetwork`] | admins | netboot |
//! | [`BareMetalEndpoint`] | operator | the controller that answers `networkRef` |
//! | [`BareMetalAddress`] | operator; creating it is the atomic allocation | none |
//! | [`BareMetalDiscoveryPolicy`] | admins | none |
//!
//! This crate holds types, defaults, CEL rules and names. It decides nothing (`lifecycle` does) and talks to nobody.

pub mod address;
pub mod bmc;
pub mod bmc_inventory;
pub mod boot_loader;
pub mod boot_network;
pub mod common;
pub mod conditions;
pub mod crds;
pub mod discovery;
pub mod endpoint;
pub mod gate;
pub mod hardware;
pub mod hardware_class;
pub mod idle;
pub mod image;
pub mod instance;
pub mod network;
pub mod policy;
pub mod power;
pub mod timeline;

pub use address::{BareMetalAddress, BareMetalAddressSpec};
pub use boot_loader::BootLoader;
pub use boot_network::BootNetwork;
pub use discovery::{BareMetalDiscovery, BareMetalDiscoverySpec, BareMetalDiscoveryStatus};
pub use endpoint::{BareMetalEndpoint, BareMetalEndpointSpec, BareMetalEndpointStatus};
pub use hardware::{BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus, HardwarePhase};
pub use hardware_class::{BareMetalHardwareClass, BareMetalHardwareClassSpec};
pub use idle::IdlePolicy;
pub use image::{BareMetalImage, BareMetalImageSpec, BareMetalImageStatus, ImageDelivery};
pub use instance::{BareMetalInstance, BareMetalInstanceSpec, BareMetalInstanceStatus, InstancePhase};
pub use network::{BareMetalNetwork, BareMetalNetworkSpec, BareMetalNetworkStatus, DhcpMode, ImageSharing};
pub use policy::{BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec};

/// API group of every kind here.
pub const GROUP: &str = "kube-baremetal.io";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";
/// Held on an instance until its machine was released, or its release was forced.
pub const FINALIZER_RELEASE: &str = "kube-baremetal.io/release";
/// Held on hardware while an instance claims it.
pub const FINALIZER_CLAIM: &str = "kube-baremetal.io/claim";
/// Label of a BareMetalHardware: the rack, or whatever else shares one fuse. Machines of one rack are not all switched on at once.
pub const LABEL_RACK: &str = "kube-baremetal.io/rack";
/// Label of a Secret that holds a sealed seed, by which netboot watches them; its value says nothing.
pub const LABEL_SEED: &str = "kube-baremetal.io/sealed-seed";
/// Label of netboot's ConfigMaps about DHCP, by which its replicas watch them: `leases` or `replica`.
pub const LABEL_DHCP: &str = "kube-baremetal.io/dhcp";
