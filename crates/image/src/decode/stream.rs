//! Raw images, plain or compressed as one stream: gzip, xz, Zstandard.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::{Copied, Download, ExtentSink, HEAD_BYTES, ImageReader, Limit, XZ_MEMORY_LIMIT, ZSTD_WINDOW_LOG_MAX, settle};
use crate::block::BLOCK_BYTES;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::{self, Format};
use crate::source::HashingReader;

/// Bytes read from the source at once.
const INPUT: usize = 256 * 1024;

type Input = BufReader<HashingReader>;

enum Decoder {
    Raw(Box<HashingReader>),
    Gzip(Box<MultiGzDecoder<Input>>),
    Xz(Box<XzDecoder<Input>>),
    Zstd(Box<zstd::Decoder<'static, Input>>),
}

impl Decoder {
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

    /// What a decoder buffered of its input has been hashed already.
    fn into_source(self) -> HashingReader {
        match self {
            Self::Raw(reader) => *reader,
            Self::Gzip(reader) => reader.into_inner().into_inner(),
            Self::Xz(reader) => reader.into_inner().into_inner(),
            Self::Zstd(reader) => reader.finish().into_inner(),
        }
    }
}

pub(crate) struct StreamReader {
    name: String,
    format: Format,
    digest: Digest,
    limit: Limit,
    image_bytes: Option<u64>,
    download: Option<Download>,
    decoder: Decoder,
    /// The first chunk, decoded when the image was opened.
    first: Vec<u8>,
}

impl StreamReader {
    pub(crate) fn open(
        reader: HashingReader,
        name: &str,
        format: Format,
        digest: &Digest,
        stored: Option<u64>,
        limit: &Limit,
    ) -> Result<Self, ImageError> {
        let image_bytes = if format == Format::Raw { stored } else { None };
        if let Some(size) = image_bytes {
            limit.check(name, size)?;
        }
        let download = stored.filter(|_| format != Format::Raw).map(|total| Download {
            total,
            passed: reader.passed(),
        });
        let decoder = match format {
            Format::Raw => Decoder::Raw(Box::new(reader)),
            Format::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT, reader)))),
            Format::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_LIMIT, flags).map_err(|error| ImageError::Corrupt {
                    source_name: name.to_owned(),
                    reason: error.to_string(),
                })?;
                Decoder::Xz(Box::new(XzDecoder::new_stream(BufReader::with_capacity(INPUT, reader), stream)))
            }
            Format::Zstd => {
                let frame = ZstdFrame::parse(reader.peeked());
                if let Some(window) = frame.window
                    && window > 1 << ZSTD_WINDOW_LOG_MAX
                {
                    return Err(window_too_large(name, &format!("a window of {} MiB", window.div_ceil(1 << 20))));
                }
                if let Some(content) = frame.content {
                    limit.check(name, content)?;
                }
                let damaged = |error: io::Error| ImageError::Corrupt {
                    source_name: name.to_owned(),
                    reason: error.to_string(),
                };
                let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(INPUT, reader)).map_err(damaged)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(damaged)?;
                Decoder::Zstd(Box::new(decoder))
            }
            Format::Qcow2 => {
                let reason = "qcow2 is not one stream".to_owned();
                return Err(ImageError::Corrupt {
                    source_name: name.to_owned(),
                    reason,
                });
            }
        };
        let mut this = Self {
            name: name.to_owned(),
            format,
            digest: digest.clone(),
            limit: limit.clone(),
            image_bytes,
            download,
            decoder,
            first: vec![0; BLOCK_BYTES],
        };
        match this.decoder.fill(&mut this.first) {
            Ok(count) => this.first.truncate(count),
            Err(error) => return Err(this.failed(error)),
        }
        if this.first.is_empty() {
            let error = ImageError::Corrupt {
                source_name: this.name.clone(),
                reason: "it decompresses to nothing".to_owned(),
            };
            return Err(settle(error, this.decoder.into_source(), digest));
        }
        if format != Format::Raw {
            format::check_inner(name, &this.first, format)?;
        }
        if this.image_bytes.is_none() && this.first.len() < BLOCK_BYTES {
            this.image_bytes = Some(this.first.len() as u64);
        }
        Ok(this)
    }

    fn failed(self, error: io::Error) -> ImageError {
        let decoder_fault = match ImageError::from_io(error) {
            Ok(source_fault) => return source_fault,
            Err(error) => error,
        };
        let error = self.decoder_error(&decoder_fault);
        settle(error, self.decoder.into_source(), &self.digest)
    }

    fn decoder_error(&self, error: &io::Error) -> ImageError {
        let text = error.to_string();
        match self.format {
            Format::Zstd if text.contains("too much memory") => window_too_large(&self.name, "a window above 64 MiB"),
            Format::Xz if is_memory_limit(error) => ImageError::Unsupported {
                source_name: self.name.clone(),
                reason: format!(
                    "its xz stream needs more than {} MiB of memory to decompress",
                    XZ_MEMORY_LIMIT >> 20
                ),
                remedy: "recompress with xz -9 or below, without a larger --lzma2 dictionary".to_owned(),
            },
            format if error.kind() == io::ErrorKind::UnexpectedEof => ImageError::IncompleteStream {
                source_name: self.name.clone(),
                format,
            },
            format => ImageError::Corrupt {
                source_name: self.name.clone(),
                reason: format!("its {format} stream is not valid: {text}"),
            },
        }
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
        remedy: format!("recompress with zstd --long={ZSTD_WINDOW_LOG_MAX} or below"),
    }
}

/// What the header of the first Zstandard frame says.
struct ZstdFrame {
    window: Option<u64>,
    content: Option<u64>,
}

impl ZstdFrame {
    fn parse(head: &[u8]) -> Self {
        Self::try_parse(head).unwrap_or(Self {
            window: None,
            content: None,
        })
    }

    fn try_parse(head: &[u8]) -> Option<Self> {
        let rest = head.strip_prefix(b"\x28\xb5\x2f\xfd")?;
        let (&descriptor, rest) = rest.split_first()?;
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (&byte, rest) = rest.split_first()?;
            let base = 1u64 << (10 + (byte >> 3));
            (Some(base + base / 8 * u64::from(byte & 7)), rest)
        };
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let rest = rest.get(dictionary..)?;
        let content = match (descriptor >> 6, single_segment) {
            (0, false) => None,
            (0, true) => Some(u64::from(*rest.first()?)),
            (1, _) => Some(u64::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?)) + 256),
            (2, _) => Some(u64::from(u32::from_le_bytes(rest.get(..4)?.try_into().ok()?))),
            _ => Some(u64::from_le_bytes(rest.get(..8)?.try_into().ok()?)),
        };
        Some(Self {
            window: window.or(content),
            content,
        })
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
        4096
    }

    fn head(&self) -> &[u8] {
        &self.first[..self.first.len().min(HEAD_BYTES)]
    }

    fn copy_to(mut self: Box<Self>, sink: &dyn ExtentSink) -> Result<Copied, ImageError> {
        let mut block = sink.block()?;
        block.append(&std::mem::take(&mut self.first));
        let mut position = 0u64;
        loop {
            let ended = block.len() < BLOCK_BYTES;
            let end = position + block.len() as u64;
            self.limit.check(&self.name, end)?;
            if !block.is_empty() {
                sink.data(position, block)?;
            }
            position = end;
            if ended {
                break;
            }
            block = sink.block()?;
            match self.decoder.fill(block.room()) {
                Ok(count) => block.set_len(count),
                Err(error) => return Err(self.failed(error)),
            }
        }
        let stored_bytes = self.decoder.into_source().finish(&self.digest)?;
        Ok(Copied {
            image_bytes: position,
            stored_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zstd_headers_tell_window_and_size() {
        let small = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        let frame = ZstdFrame::parse(&small);
        assert_eq!(frame.content, Some(1000));
        assert_eq!(frame.window, Some(1000));
        // A frame header by hand: no single segment, window exponent 17 (128 MiB), no sizes.
        let frame = ZstdFrame::parse(b"\x28\xb5\x2f\xfd\x00\x88");
        assert_eq!(frame.window, Some(128 << 20));
        assert!(ZstdFrame::parse(b"\x28\xb5").window.is_none());
    }
}
