//! The one error type of the crate, and what each becomes in an order's result.

use std::{io, path::PathBuf};

use agent_protocol::order::{Fault, FaultReason, Outcome};
use image::{FaultKind, ImageError};

use crate::{config_drive::ConfigDriveError, erase::EraseError, marker::MarkerError, target::Refusal};

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The order does not fit this machine; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The order lacks a part that its kind needs.
    #[error("order {order} lacks its {part}; this is a fault of the server: correct or delete the order")]
    Incomplete {
        /// The order.
        order: String,
        /// Which part.
        part: &'static str,
    },
    /// A config drive is asked for and there is no seed.
    #[error("the order asks for a config drive, but {0}; the server has to seal the seed to this session")]
    NoSeed(&'static str),
    /// The seed cannot become a config drive.
    #[error(transparent)]
    ConfigDrive(#[from] ConfigDriveError),
    /// The marker cannot be written.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The image engine failed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The erase failed.
    #[error(transparent)]
    Erase(#[from] EraseError),
    /// A firmware variable could not be read or written.
    #[error("{operation} EFI variable {name} failed: {source}; look at the firmware's setup for a full or locked variable store")]
    EfiVariable {
        /// `reading`, `writing`, `deleting`, `listing`.
        operation: &'static str,
        /// Its name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("reading {path} failed: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl MachineError {
    /// The reason under which it is reported.
    pub fn reason(&self) -> FaultReason {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Incomplete { .. } | Self::EfiVariable { .. } | Self::Read { .. } => FaultReason::Internal,
            Self::NoSeed(_) | Self::ConfigDrive(_) | Self::Marker(_) => FaultReason::SeedUnavailable,
            Self::Image(error) => image_reason(error.kind()),
            Self::Erase(error) => error.reason(),
        }
    }

    /// As it goes into an order's result, clipped to what the protocol allows.
    pub fn fault(&self) -> Fault {
        let message: String = self.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Fault {
            reason: self.reason(),
            message: crate::text::clip(&message, agent_protocol::limits::MAX_MESSAGE).to_owned(),
        }
    }

    /// Refused when nothing was changed yet, else failed.
    pub fn outcome(&self, began: bool) -> Outcome {
        if began { Outcome::Failed } else { Outcome::Refused }
    }
}

/// The protocol's word for a fault of the image engine.
pub fn image_reason(kind: FaultKind) -> FaultReason {
    match kind {
        FaultKind::Unreachable => FaultReason::ImageUnreachable,
        FaultKind::Truncated => FaultReason::ImageTruncated,
        FaultKind::DigestMismatch => FaultReason::ImageDigestMismatch,
        FaultKind::FormatMismatch => FaultReason::ImageFormatMismatch,
        FaultKind::UnsupportedImage => FaultReason::ImageUnsupported,
        FaultKind::TooLarge => FaultReason::ImageTooLarge,
        FaultKind::SectorSizeMismatch => FaultReason::SectorSizeMismatch,
        FaultKind::DiskIo => FaultReason::DiskIO,
        FaultKind::VerifyMismatch => FaultReason::VerifyMismatch,
        FaultKind::NoRoomForConfigDrive => FaultReason::NoRoomForConfigDrive,
        FaultKind::InvalidRequest => FaultReason::Internal,
        FaultKind::Cancelled => FaultReason::Internal,
    }
}
