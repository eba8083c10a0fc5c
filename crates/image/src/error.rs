//! The one error type of the crate and its stable classification.
//!
//! Every message says what failed, on what, and what to do next. [`ImageError::kind`] is the stable part: callers map it to
//! condition reasons and never look into the text.

use std::io;

use crate::format::Format;

/// Stable classification of an [`ImageError`], for condition reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The source does not answer, answers with an error, stalls, or takes longer than allowed.
    Unreachable,
    /// The source ended before all of it had come.
    Truncated,
    /// The stored bytes are not those that the digest names.
    DigestMismatch,
    /// The declared format is not the format of the bytes.
    FormatMismatch,
    /// The bytes are of a kind that is refused, or damaged.
    UnsupportedImage,
    /// The image is larger than the disk or than the cap.
    TooLarge,
    /// The partition table of the image counts in other sectors than the disk.
    SectorSizeMismatch,
    /// The disk refused a read, a write or a flush.
    DiskIo,
    /// The disk returned other bytes than were written to it.
    VerifyMismatch,
    /// No room, or no place, for the config drive.
    NoRoomForConfigDrive,
    /// The request itself is wrong (digest text, URL, marker).
    InvalidRequest,
    /// The caller asked to stop.
    Cancelled,
}

impl FaultKind {
    /// The name in UpperCamelCase, as condition reasons are written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "Unreachable",
            Self::Truncated => "Truncated",
            Self::DigestMismatch => "DigestMismatch",
            Self::FormatMismatch => "FormatMismatch",
            Self::UnsupportedImage => "UnsupportedImage",
            Self::TooLarge => "TooLarge",
            Self::SectorSizeMismatch => "SectorSizeMismatch",
            Self::DiskIo => "DiskIo",
            Self::VerifyMismatch => "VerifyMismatch",
            Self::NoRoomForConfigDrive => "NoRoomForConfigDrive",
            Self::InvalidRequest => "InvalidRequest",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether the same request may succeed later with nothing changed by a person.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Truncated | Self::Cancelled)
    }
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the disk was asked for when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOperation {
    /// Opening it exclusively.
    Open,
    /// Asking for its size or sector size.
    Inspect,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Writing zeros over a range.
    Zero,
    /// Discarding a range.
    Discard,
    /// Making writes durable.
    Flush,
}

impl std::fmt::Display for DiskOperation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "opening",
            Self::Inspect => "inspecting",
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Zero => "zeroing",
            Self::Discard => "discarding",
            Self::Flush => "flushing",
        })
    }
}

/// Everything that can go wrong between a source and a bootable disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The digest text is not one.
    #[error("digest {text:?} is not valid: {reason}; write it as sha256:<64 hex digits> or sha512:<128 hex digits>")]
    InvalidDigest {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The URL cannot be used.
    #[error("image URL {url} cannot be used: {reason}; use an http:// or https:// URL without user name and password")]
    InvalidUrl {
        /// The URL without credentials and query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The in-progress payload does not fit into the first sector.
    #[error("the in-progress marker needs {needed} bytes, but the first sector has room for {available}; shorten its payload")]
    MarkerTooLarge {
        /// Bytes after compression.
        needed: usize,
        /// Bytes that fit.
        available: usize,
    },
    /// The source does not answer or breaks off again and again.
    #[error("{source_name} cannot be read: {reason}; check that this machine can reach the server, then retry")]
    Unreachable {
        /// URL or file.
        source_name: String,
        /// Innermost cause, for people.
        reason: String,
    },
    /// The server answered with an error status.
    #[error("{source_name} answered HTTP status {status}; correct the image URL or make the file available there")]
    HttpStatus {
        /// URL.
        source_name: String,
        /// The status code.
        status: u16,
    },
    /// No bytes came for too long, or the whole took too long.
    #[error("{source_name} is too slow: {reason}; check the network path or allow more time")]
    TooSlow {
        /// URL.
        source_name: String,
        /// Which limit was hit.
        reason: String,
    },
    /// The stored file is larger than the cap.
    #[error("{source_name} is larger than the cap of {limit} bytes; use a smaller image or raise the cap")]
    SourceTooLarge {
        /// URL or file.
        source_name: String,
        /// The cap.
        limit: u64,
    },
    /// The source ended early.
    #[error(
        "{source_name} is truncated: {actual} of {expected} bytes came; publish the whole file again and check the server or proxy between"
    )]
    Truncated {
        /// URL or file.
        source_name: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// The compressed stream ends in the middle, though its digest is the one that was asked for.
    #[error(
        "{source_name} ends in the middle of its {format} stream: the published file itself is incomplete; publish it again and correct the digest"
    )]
    IncompleteStream {
        /// URL or file.
        source_name: String,
        /// The format.
        format: Format,
    },
    /// The file changed between two reads.
    #[error("{source_name} changed while it was read ({reason}); publish images under names that never change, then retry")]
    SourceChanged {
        /// URL or file.
        source_name: String,
        /// What differed.
        reason: String,
    },
    /// The digest differs.
    #[error("{source_name} has digest {actual}, expected {expected}; correct the digest in the image, or publish the file that it names")]
    DigestMismatch {
        /// URL or file.
        source_name: String,
        /// As asked for.
        expected: String,
        /// As computed.
        actual: String,
    },
    /// The declared format is not the format found.
    #[error("image is declared as {declared} but {source_name} holds {found}; correct the declared format, or the URL")]
    FormatMismatch {
        /// URL or file.
        source_name: String,
        /// As declared.
        declared: Format,
        /// As found.
        found: String,
    },
    /// Well-formed perhaps, but refused.
    #[error("{source_name} is not supported: {reason}; {remedy}")]
    Unsupported {
        /// URL or file.
        source_name: String,
        /// What about it.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// Damaged.
    #[error("{source_name} is damaged: {reason}; check the image with the tool that made it and publish it again")]
    Corrupt {
        /// URL or file.
        source_name: String,
        /// What about it.
        reason: String,
    },
    /// Larger than the disk.
    #[error("image {source_name} needs {needed} bytes, but disk {disk} has {available} bytes; choose a larger disk or a smaller image")]
    TooLarge {
        /// URL or file.
        source_name: String,
        /// The disk.
        disk: String,
        /// Bytes needed (a lower bound when `source_name` is a stream without a declared size).
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The partition table counts in other sectors.
    #[error(
        "image {source_name} has a {table} partition table for {image}-byte sectors, but disk {disk} has {actual}-byte sectors; use an image made for {actual}-byte sectors, or another disk"
    )]
    SectorSizeMismatch {
        /// URL or file.
        source_name: String,
        /// GPT or MBR.
        table: &'static str,
        /// Sector size of the image.
        image: u32,
        /// The disk.
        disk: String,
        /// Sector size of the disk.
        actual: u32,
    },
    /// The disk failed.
    #[error(
        "{operation} disk {disk} at byte {offset} failed: {source}; check cable, controller and the health of the disk, or choose another one"
    )]
    DiskIo {
        /// What was asked.
        operation: DiskOperation,
        /// The disk.
        disk: String,
        /// Where.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The disk lies.
    #[error(
        "disk {disk} returned other bytes than were written, between byte {offset} and {end} ({what}); the disk or its controller is not trustworthy: replace it or choose another disk"
    )]
    VerifyMismatch {
        /// The disk.
        disk: String,
        /// First byte of the differing region.
        offset: u64,
        /// One past its last byte.
        end: u64,
        /// Which part of the write.
        what: &'static str,
    },
    /// The config drive cannot be placed.
    #[error("no place for the config drive of {needed} bytes on disk {disk}: {reason}; {remedy}")]
    NoRoomForConfigDrive {
        /// The disk.
        disk: String,
        /// Bytes needed.
        needed: u64,
        /// Why not.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A file or folder that was to be made.
    #[error("writing {path} failed: {source}; check that there is room and permission, then retry")]
    Output {
        /// Which.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("writing the image was cancelled; the disk is marked as in progress and is not bootable")]
    Cancelled,
}

impl ImageError {
    /// The stable classification.
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::InvalidDigest { .. } | Self::InvalidUrl { .. } | Self::MarkerTooLarge { .. } => FaultKind::InvalidRequest,
            Self::Unreachable { .. } | Self::HttpStatus { .. } | Self::TooSlow { .. } => FaultKind::Unreachable,
            Self::Truncated { .. } | Self::IncompleteStream { .. } => FaultKind::Truncated,
            Self::SourceChanged { .. } | Self::DigestMismatch { .. } => FaultKind::DigestMismatch,
            Self::FormatMismatch { .. } => FaultKind::FormatMismatch,
            Self::Unsupported { .. } | Self::Corrupt { .. } => FaultKind::UnsupportedImage,
            Self::SourceTooLarge { .. } | Self::TooLarge { .. } => FaultKind::TooLarge,
            Self::SectorSizeMismatch { .. } => FaultKind::SectorSizeMismatch,
            Self::DiskIo { .. } | Self::Output { .. } => FaultKind::DiskIo,
            Self::VerifyMismatch { .. } => FaultKind::VerifyMismatch,
            Self::NoRoomForConfigDrive { .. } => FaultKind::NoRoomForConfigDrive,
            Self::Cancelled => FaultKind::Cancelled,
        }
    }

    /// Carries the typed error through an interface that knows only `io::Error`.
    pub(crate) fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// Gets the typed error back out of an `io::Error`, or hands the `io::Error` back.
    pub(crate) fn from_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}
