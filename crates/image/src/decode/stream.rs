//! Raw images, plain or compressed as one stream: gzip, xz, Zstandard.
//!
//! Opening one decodes its head with a decoder of its own; copying starts again from the first stored byte, which is still there.
//! Decoders write straight into the sink's blocks.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::feed::{Ahead, Fault, Input, Stored, copy_raw, feed};
use super::stretch::GRANULE;
use super::zstd_frame::ZstdFrame;
use super::{Copied, Download, ExtentSink, HEAD_BYTES, ImageReader, Limit, Windows, XZ_MEMORY_LIMIT, ZSTD_WINDOW_LOG_MAX, workers, xz};
use crate::block::BLOCK_BYTES;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::{self, Format};

/// What to do about a window that is too large, before the format's own remedy.
const PACK_IT: &str = "pack it with `kube-baremetal image pack`, or recompress it with";

enum Decoder<R: BufRead> {
    Raw(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Xz(Box<XzDecoder<R>>),
    Zstd(Box<zstd::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    fn new(format: Format, input: R, windows: Windows) -> io::Result<Self> {
        Ok(match format {
            Format::Raw => Self::Raw(input),
            Format::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Format::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(windows.xz_memory, flags)?;
                Self::Xz(Box::new(XzDecoder::new_stream(input, stream)))
            }
            Format::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(windows.zstd_log)?;
                Self::Zstd(Box::new(decoder))
            }
            Format::Qcow2 => return Err(io::Error::other("qcow2 is not one stream")),
        })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Raw(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Xz(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }

    /// Fills the buffer, or less at the end.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

pub(crate) struct StreamReader {
    name: String,
    format: Format,
    digest: Digest,
    limit: Limit,
    windows: Windows,
    image_bytes: Option<u64>,
    download: Option<Download>,
    stored: Stored,
    head: Vec<u8>,
}

impl StreamReader {
    pub(crate) fn open(
        mut stored: Stored,
        name: &str,
        format: Format,
        digest: &Digest,
        stored_bytes: Option<u64>,
        limit: &Limit,
        windows: Windows,
    ) -> Result<Self, ImageError> {
        let mut image_bytes = if format == Format::Raw { stored_bytes } else { None };
        if let Some(size) = image_bytes {
            limit.check(name, size)?;
        }
        if format == Format::Zstd {
            let frame = ZstdFrame::parse(stored.prefix());
            if let Some(window) = frame.window
                && window > 1 << windows.zstd_log
            {
                return Err(window_too_large(name, &format!("a window of {} MiB", window.div_ceil(1 << 20))));
            }
            if let Some(content) = frame.content {
                limit.check(name, content)?;
            }
        }
        let mut head = vec![0; HEAD_BYTES];
        let looked = Decoder::new(format, BufReader::new(Ahead::new(&mut stored)), windows).and_then(|mut decoder| decoder.fill(&mut head));
        match looked {
            Ok(count) => head.truncate(count),
            Err(error) => return Err(stored.settle(decoder_error(name, format, error), digest)),
        }
        if head.is_empty() {
            let error = ImageError::Corrupt {
                source_name: name.to_owned(),
                reason: "it decompresses to nothing".to_owned(),
            };
            return Err(stored.settle(error, digest));
        }
        if format != Format::Raw {
            format::check_inner(name, &head, format)?;
        }
        if head.len() < HEAD_BYTES {
            image_bytes.get_or_insert(head.len() as u64);
        }
        let download = stored_bytes.filter(|_| format != Format::Raw).map(|total| Download {
            total,
            passed: stored.passed(),
        });
        Ok(Self {
            name: name.to_owned(),
            format,
            digest: digest.clone(),
            limit: limit.clone(),
            windows,
            image_bytes,
            download,
            stored,
            head,
        })
    }
}

/// Decodes everything into blocks, in the order of the disk, and says how long the disk is.
fn decode(name: &str, format: Format, limit: &Limit, windows: Windows, input: Input, sink: &dyn ExtentSink) -> Result<u64, Fault> {
    let failed = |error| Fault::Image(decoder_error(name, format, error));
    let mut decoder = Decoder::new(format, input, windows).map_err(failed)?;
    let mut position = 0u64;
    loop {
        let mut block = sink.block().map_err(Fault::Sink)?;
        let count = decoder.fill(block.room()).map_err(failed)?;
        let end = position + count as u64;
        limit.check(name, end).map_err(Fault::Image)?;
        if count > 0 {
            block.set_len(count);
            sink.data(position, block).map_err(Fault::Sink)?;
        }
        position = end;
        if count < BLOCK_BYTES {
            return Ok(position);
        }
    }
}

pub(super) fn decoder_error(name: &str, format: Format, error: io::Error) -> ImageError {
    let error = match ImageError::from_io(error) {
        Ok(source_fault) => return source_fault,
        Err(error) => error,
    };
    let text = error.to_string();
    match format {
        Format::Zstd if text.contains("too much memory") => window_too_large(name, "a window above 64 MiB"),
        Format::Xz if is_memory_limit(&error) => ImageError::Unsupported {
            source_name: name.to_owned(),
            reason: format!(
                "its xz stream needs more than {} MiB of memory to decompress",
                XZ_MEMORY_LIMIT >> 20
            ),
            remedy: format!("{PACK_IT} xz -9 or below, without a larger --lzma2 dictionary"),
        },
        format if error.kind() == io::ErrorKind::UnexpectedEof => ImageError::IncompleteStream {
            source_name: name.to_owned(),
            format,
        },
        format => ImageError::Corrupt {
            source_name: name.to_owned(),
            reason: format!("its {format} stream is not valid: {text}"),
        },
    }
}

fn is_memory_limit(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>());
    matches!(inner, Some(liblzma::stream::Error::MemLimit | liblzma::stream::Error::Mem)) || error.kind() == io::ErrorKind::OutOfMemory
}

fn window_too_large(name: &str, what: &str) -> ImageError {
    ImageError::Unsupported {
        source_name: name.to_owned(),
        reason: format!(
            "its Zstandard stream needs {what}, the limit is {} MiB",
            1u64 << (ZSTD_WINDOW_LOG_MAX - 20)
        ),
        remedy: format!("{PACK_IT} zstd --long={ZSTD_WINDOW_LOG_MAX} or below"),
    }
}

impl ImageReader for StreamReader {
    fn source_name(&self) -> &str {
        &self.name
    }

    fn format(&self) -> Format {
        self.format
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn image_bytes(&self) -> Option<u64> {
        self.image_bytes
    }

    fn download(&self) -> Option<Download> {
        self.download.clone()
    }

    fn granule(&self) -> u32 {
        GRANULE as u32
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn copy_to(self: Box<Self>, sink: &dyn ExtentSink) -> Result<Copied, ImageError> {
        let Self {
            name,
            format,
            digest,
            limit,
            windows,
            stored,
            ..
        } = *self;
        let (image_bytes, stored_bytes) = match format {
            Format::Raw => copy_raw(stored, &digest, &limit, sink)?,
            Format::Xz if workers() > 1 && xz::tells_sizes(stored.prefix()) => {
                feed(stored, &digest, |input| xz::copy(&name, &limit, windows, input, sink))?
            }
            _ => feed(stored, &digest, |input| decode(&name, format, &limit, windows, input, sink))?,
        };
        Ok(Copied { image_bytes, stored_bytes })
    }
}
