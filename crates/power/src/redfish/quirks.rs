//! What vendors' controllers do in their own way, as data: each with where it is told. Pure.
//!
//! Whatever can be learnt by asking (what is offered, what is refused) is no quirk: [`super::system`] tries the forms that the standard allows, in turn. Here is what is
//! taken without complaint and then not done, or which of the forms spares a refusal.

/// Whether the firmware's mode goes along with a boot override.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Where the controller shows one; and once more without it, if it is refused.
    WhereShown,
    /// Always: without it the mode is set back. Once more without it where it is refused: older ones have none.
    Always,
    /// Never: it is read-only.
    Never,
}

/// What is different with a vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirk {
    /// What the vendor's name contains, in lower case.
    pub vendor: &'static str,
    /// The mode of a boot override.
    pub mode: Mode,
    /// Boot override targets that mean an attached medium, in order of preference.
    pub medium: &'static [&'static str],
    /// Members of the machine's document that hold the serial number which SMBIOS has too, in order of preference.
    pub serial: &'static [&'static str],
    /// Beginnings of the names of virtual drives that come last: they take small images only, or none.
    pub last_drives: &'static [&'static str],
    /// Where subscriptions to events are places that are always there, and a free one is changed: the vendor's object in `Oem`, and its member that switches one on.
    pub place: Option<(&'static str, &'static str)>,
    /// Where it is told.
    pub source: &'static str,
}

/// What the standard says.
pub const STANDARD: Quirk = Quirk {
    vendor: "",
    mode: Mode::WhereShown,
    medium: &["Cd", "UsbCd"],
    serial: &["SerialNumber"],
    last_drives: &[],
    place: None,
    source: "DSP0266, DSP0268 (ComputerSystem, Boot)",
};

/// All of them.
pub static QUIRKS: &[Quirk] = &[
    Quirk {
        vendor: "dell",
        serial: &["SKU", "SerialNumber"],
        source: "bb-Ricardo/netbox-sync pull request 551, ansible/ansible issue 53461: SerialNumber is the board's part number (PPID); the service tag, which SMBIOS has as the \
                 system's serial number, is SKU",
        ..STANDARD
    },
    Quirk {
        vendor: "supermicro",
        mode: Mode::Always,
        medium: &["UsbCd", "Cd"],
        place: Some(("Supermicro", "EnableSubscription")),
        source: "DMTF/Redfishtool pull request 106: without the mode it goes back to the default; ironcore-dev/metal-operator issue 982: X10 knows none; \
                 openstack/sushy, resources/system: of Cd and UsbCd, which are both offered, only the latter boots virtual media; \
                 Supermicro's Redfish reference guide, event service: a subscription is added by a change of one that is there, and switched on by EnableSubscription",
        ..STANDARD
    },
    Quirk {
        vendor: "hpe",
        mode: Mode::Never,
        source: "ansible-collections/community.general issue 3509: BootSourceOverrideMode is not writable on iLO",
        ..STANDARD
    },
    Quirk {
        vendor: "lenovo",
        last_drives: &["RDOC", "Remote"],
        source: "Lenovo XCC REST API guide, virtual media: RDOC takes images of up to 100 MB in all, Remote takes none, EXT takes any",
        ..STANDARD
    },
];

/// That of a vendor.
#[must_use]
pub fn of(vendor: &str) -> &'static Quirk {
    let vendor = vendor.to_ascii_lowercase();
    QUIRKS.iter().find(|quirk| vendor.contains(quirk.vendor)).unwrap_or(&STANDARD)
}
