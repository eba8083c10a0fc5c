//! Metrics of one replica. Labels are closed lists: nothing that a stranger sends becomes a label.

use std::time::Duration;

use api::timeline::BootStepKind;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// Which route was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Route {
    /// Boot script.
    Boot,
    /// Session.
    Session,
    /// Order.
    Order,
    /// Report.
    Report,
    /// Answer about a BMC user.
    BmcUser,
    /// Seed.
    Seed,
    /// Sharing.
    Share,
    /// Guest registration.
    GuestRegister,
    /// Guest order.
    GuestOrder,
}

/// How it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Answer {
    /// 2xx.
    Ok,
    /// 4xx.
    Refused,
    /// 429 or 503.
    Overloaded,
    /// 500.
    Failed,
}

/// What a DHCP packet was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DhcpAnswer {
    /// DHCPOFFER.
    Offer,
    /// DHCPACK.
    Ack,
    /// DHCPNAK.
    Nak,
    /// Nothing: it is not for us, there is nothing to boot, it needs no answer, or it has to wait for one.
    None,
}

/// What kind of DHCP packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DhcpMessage {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST.
    Request,
    /// DHCPDECLINE.
    Decline,
    /// DHCPRELEASE.
    Release,
    /// DHCPINFORM.
    Inform,
    /// Anything else.
    Other,
}

/// Labels of a DHCP packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DhcpLabels {
    /// What came in.
    pub message: DhcpMessage,
    /// How it was answered.
    pub answer: DhcpAnswer,
}

/// What a DHCPv6 message was answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Dhcpv6Answer {
    /// ADVERTISE.
    Advertise,
    /// REPLY.
    Reply,
    /// Nothing: it is not for us, there is nothing to boot, or it has to wait for an answer.
    None,
}

/// What kind of DHCPv6 message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Dhcpv6Message {
    /// SOLICIT.
    Solicit,
    /// REQUEST.
    Request,
    /// CONFIRM.
    Confirm,
    /// RENEW.
    Renew,
    /// REBIND.
    Rebind,
    /// RELEASE.
    Release,
    /// DECLINE.
    Decline,
    /// INFORMATION-REQUEST.
    InformationRequest,
    /// Anything else.
    Other,
}

/// Labels of a DHCPv6 message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Dhcpv6Labels {
    /// What came in.
    pub message: Dhcpv6Message,
    /// How it was answered.
    pub answer: Dhcpv6Answer,
}

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// What an address of a network is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum LeaseState {
    /// For whoever comes.
    Free,
    /// Leased.
    Bound,
    /// Declined, or somebody answered from it.
    Quarantined,
}

/// Labels of addresses: the network is an object's name, which nobody on a LAN chooses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeaseLabels {
    /// BareMetalNetwork.
    pub network: String,
    /// Of which family.
    pub family: IpFamily,
    /// What they are.
    pub state: LeaseState,
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Which route.
    pub route: Route,
    /// How answered.
    pub answer: Answer,
}

/// Labels of a step of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabels {
    /// Which step, as in a boot timeline.
    pub step: &'static str,
}

/// The label of a step.
const fn step_name(step: BootStepKind) -> &'static str {
    match step {
        BootStepKind::Offer => "Offer",
        BootStepKind::NoOffer => "NoOffer",
        BootStepKind::BootServer => "BootServer",
        BootStepKind::Tftp => "Tftp",
        BootStepKind::TftpRefused => "TftpRefused",
        BootStepKind::Loader => "Loader",
        BootStepKind::Script => "Script",
        BootStepKind::Kernel => "Kernel",
        BootStepKind::Initramfs => "Initramfs",
        BootStepKind::Session => "Session",
    }
}

/// From a millisecond to two minutes: a script, and an initramfs over a slow wire.
fn step_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

/// From two seconds to about half an hour.
fn boot_buckets() -> Histogram {
    Histogram::new(exponential_buckets(2.0, 2.0, 11))
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by route and answer.
    pub requests: Family<RequestLabels, Counter>,
    /// DHCP packets by message and answer.
    pub dhcp: Family<DhcpLabels, Counter>,
    /// DHCPv6 messages by message and answer.
    pub dhcp_v6: Family<Dhcpv6Labels, Counter>,
    /// Router advertisements that were sent.
    pub router_advertisements: Counter,
    /// Addresses that this replica gives out, by network, family and state.
    pub dhcp_addresses: Family<LeaseLabels, Gauge>,
    /// Answers that were not sent because their lease could not be written in time.
    pub dhcp_not_kept: Counter,
    /// Answers of other DHCP servers that were seen where we are the one.
    pub dhcp_other_servers: Counter,
    /// Addresses that somebody answered from who has no lease.
    pub dhcp_conflicts: Counter,
    /// Frames that were sent to wake machines.
    pub wake_frames: Counter,
    /// Transfers over TFTP that ended well.
    pub tftp_sent: Counter,
    /// Transfers over TFTP that did not.
    pub tftp_failed: Counter,
    /// Steps of boots that were seen.
    pub boot_steps: Family<StepLabels, Counter>,
    /// Those of them that failed.
    pub boot_steps_failed: Family<StepLabels, Counter>,
    /// How long the steps took that take time: transfers, and the decision behind a script.
    pub boot_step_seconds: Family<StepLabels, Histogram, fn() -> Histogram>,
    /// From the first thing that was heard of a machine to its agent's session.
    pub boot_seconds: Histogram,
    /// Boot timelines that were written by themselves: boots that stopped.
    pub timelines_written: Counter,
    /// Steps or machines that were not followed because of a bound.
    pub timelines_refused: Counter,
    /// Panics in request handlers.
    pub panics: Counter,
    /// Writes to the API.
    pub writes: Counter,
    /// Writes that came too late and were tried again.
    pub conflicts: Counter,
    /// Fresh reads from the API.
    pub reads: Counter,
    /// Destructive orders handed out.
    pub orders: Counter,
    /// Destructive orders that the cache showed and the fresh read did not.
    pub stale_orders: Counter,
    /// Progress hints dropped because a newer one replaced them.
    pub progress_dropped: Counter,
    /// Progress hints that were sent to the API.
    pub progress_written: Counter,
    /// Connections turned away because of a quota.
    pub connections_refused: Counter,
    /// Requests turned away because of a rate limit.
    pub rate_limited: Counter,
    /// Machines whose agent asks this replica.
    pub machines: Gauge,
    /// Machines that fell silent.
    pub lost: Counter,
    /// Whether the API answers: 1 or 0.
    pub api_reachable: Gauge,
    /// Bytes on the image store's disk, with what is being made.
    pub image_store_bytes: Gauge,
    /// Packed images on it.
    pub image_store_packs: Gauge,
    /// Bytes of packed images that were asked for.
    pub image_bytes_served: Counter,
    /// Images that were prepared from their source.
    pub images_prepared: Counter,
    /// Images that were copied from another replica.
    pub images_copied: Counter,
    /// Preparations that failed.
    pub images_failed: Counter,
    /// Machines that share an image with others.
    pub sharing_members: Gauge,
    /// Machines that were said to have given others wrong bytes.
    pub sharing_wrong_bytes: Counter,
    /// Machines that were taken out of sharing for it.
    pub sharing_expelled: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("kube_baremetal_netboot");
        macro_rules! register {
            ($name:literal, $help:literal, $kind:ty) => {{
                let metric = <$kind>::default();
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let boot_step_seconds = Family::new_with_constructor(step_buckets as fn() -> Histogram);
        registry.register(
            "boot_step_seconds",
            "How long steps of boots took: transfers, and the decision behind a script",
            boot_step_seconds.clone(),
        );
        let boot_seconds = boot_buckets();
        registry.register(
            "boot_seconds",
            "From the first thing that was heard of a machine to its agent's session",
            boot_seconds.clone(),
        );
        let boot_steps = register!("boot_steps", "Steps of boots that were seen", Family<StepLabels, Counter>);
        let boot_steps_failed = register!(
            "boot_steps_failed",
            "Steps of boots that did not end well",
            Family<StepLabels, Counter>
        );
        // From nought on: a rate needs a value from before the first failure.
        for step in BootStepKind::ALL {
            let labels = StepLabels { step: step_name(step) };
            drop(boot_steps.get_or_create(&labels));
            drop(boot_steps_failed.get_or_create(&labels));
        }
        let requests = register!("requests", "Requests by route and answer", Family<RequestLabels, Counter>);
        Self {
            requests,
            dhcp: register!("dhcp_packets", "DHCP packets by message and answer", Family<DhcpLabels, Counter>),
            dhcp_v6: register!(
                "dhcpv6_packets",
                "DHCPv6 messages by message and answer",
                Family<Dhcpv6Labels, Counter>
            ),
            router_advertisements: register!("router_advertisements", "Router advertisements sent", Counter),
            dhcp_addresses: register!(
                "dhcp_addresses",
                "Addresses to give out by network and state",
                Family<LeaseLabels, Gauge>
            ),
            dhcp_not_kept: register!(
                "dhcp_leases_not_kept",
                "Answers not sent because their lease could not be written in time",
                Counter
            ),
            dhcp_other_servers: register!(
                "dhcp_other_server_answers",
                "Answers of other DHCP servers on networks where netboot is the only one",
                Counter
            ),
            dhcp_conflicts: register!(
                "dhcp_address_conflicts",
                "Addresses that were about to be given out and that somebody uses",
                Counter
            ),
            wake_frames: register!("wake_frames", "Frames that were sent to wake machines (Wake-on-LAN)", Counter),
            tftp_sent: register!("tftp_sent", "Boot loaders sent over TFTP", Counter),
            tftp_failed: register!("tftp_failed", "Transfers over TFTP that did not end well", Counter),
            boot_steps,
            boot_steps_failed,
            boot_step_seconds,
            boot_seconds,
            timelines_written: register!("timelines_written", "Boot timelines written because the boot stopped", Counter),
            timelines_refused: register!(
                "timelines_refused",
                "Steps or machines that were not followed because of a bound",
                Counter
            ),
            panics: register!("panics", "Panics caught in request handlers", Counter),
            writes: register!("api_writes", "Writes to the Kubernetes API", Counter),
            conflicts: register!("api_conflicts", "Writes that came too late and were tried again", Counter),
            reads: register!("api_fresh_reads", "Reads from the Kubernetes API past the cache", Counter),
            orders: register!("destructive_orders", "Destructive orders handed out", Counter),
            stale_orders: register!(
                "stale_orders",
                "Destructive orders that were in the cache only and were not handed out",
                Counter
            ),
            progress_dropped: register!(
                "progress_dropped",
                "Progress hints replaced by newer ones before they were written",
                Counter
            ),
            progress_written: register!("progress_written", "Progress hints that were sent to the Kubernetes API", Counter),
            connections_refused: register!("connections_refused", "Connections turned away by a quota", Counter),
            rate_limited: register!("rate_limited", "Requests turned away by a rate limit", Counter),
            machines: register!("machines", "Machines whose agent asks this replica", Gauge),
            lost: register!("machines_lost", "Machines that fell silent", Counter),
            api_reachable: register!("api_reachable", "Whether the Kubernetes API answers", Gauge),
            image_store_bytes: register!("image_store_bytes", "Bytes on the image store's disk", Gauge),
            image_store_packs: register!("image_store_packs", "Packed images in the image store", Gauge),
            image_bytes_served: register!("image_bytes_served", "Bytes of packed images that were asked for", Counter),
            images_prepared: register!("images_prepared", "Images prepared from their source", Counter),
            images_copied: register!("images_copied", "Images copied from another replica", Counter),
            images_failed: register!("image_preparations_failed", "Preparations of images that failed", Counter),
            sharing_members: register!(
                "sharing_members",
                "Machines that share an image with others or wait for others to share with",
                Gauge
            ),
            sharing_wrong_bytes: register!(
                "sharing_wrong_bytes",
                "Times that a machine was said to have given another one wrong bytes",
                Counter
            ),
            sharing_expelled: register!(
                "sharing_expelled",
                "Machines taken out of sharing because others got wrong bytes from them",
                Counter
            ),
            registry,
        }
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            // Writing to a String fails only when a metric's own encoder does.
            Err(std::fmt::Error) => String::new(),
        }
    }

    pub(crate) fn count_dhcp(&self, message: DhcpMessage, answer: DhcpAnswer) {
        self.dhcp.get_or_create(&DhcpLabels { message, answer }).inc();
    }

    pub(crate) fn count_dhcp_v6(&self, message: Dhcpv6Message, answer: Dhcpv6Answer) {
        self.dhcp_v6.get_or_create(&Dhcpv6Labels { message, answer }).inc();
    }

    /// Tells how many addresses of a network are in which state.
    pub(crate) fn set_addresses(&self, network: &str, family: IpFamily, counts: [(LeaseState, u32); 3]) {
        for (state, count) in counts {
            let labels = LeaseLabels {
                network: network.to_owned(),
                family,
                state,
            };
            self.dhcp_addresses.get_or_create(&labels).set(count.into());
        }
    }

    /// A network is not served any more.
    pub(crate) fn forget_addresses(&self, network: &str, family: IpFamily) {
        for state in [LeaseState::Free, LeaseState::Bound, LeaseState::Quarantined] {
            self.dhcp_addresses.remove(&LeaseLabels {
                network: network.to_owned(),
                family,
                state,
            });
        }
    }

    /// A step of a boot; those that take no time of their own have none.
    pub(crate) fn count_step(&self, step: BootStepKind, took: Duration, failed: bool) {
        let labels = StepLabels { step: step_name(step) };
        self.boot_steps.get_or_create(&labels).inc();
        if failed {
            self.boot_steps_failed.get_or_create(&labels).inc();
        } else if !took.is_zero() {
            self.boot_step_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    pub(crate) fn count(&self, route: Route, status: http::StatusCode) {
        let answer = match status.as_u16() {
            429 | 503 => Answer::Overloaded,
            500.. => Answer::Failed,
            400.. => Answer::Refused,
            _ => Answer::Ok,
        };
        self.requests.get_or_create(&RequestLabels { route, answer }).inc();
    }
}
