//! Compressed clusters: from stored bytes to plain ones, in one go into memory that is there already.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::header::{Compression, Header};
use crate::error::ImageError;

/// Decompresses clusters one after the other.
pub(crate) enum Decompressor {
    Deflate(Box<Decompress>),
    Zstd(Box<ZstdDecoder<'static>>),
}

impl Decompressor {
    pub(crate) fn new(name: &str, header: &Header) -> Result<Self, ImageError> {
        match header.compression {
            Compression::Deflate => Ok(Self::Deflate(Box::new(Decompress::new(false)))),
            Compression::Zstd => {
                // A cluster is at most 2 MiB: no larger window makes sense.
                let decoder = ZstdDecoder::new().and_then(|mut decoder| {
                    decoder.set_parameter(DParameter::WindowLogMax(23))?;
                    Ok(decoder)
                });
                decoder
                    .map(|decoder| Self::Zstd(Box::new(decoder)))
                    .map_err(|error| ImageError::Corrupt {
                        source_name: name.to_owned(),
                        reason: error.to_string(),
                    })
            }
        }
    }

    /// Fills `cluster`. What is stored may be longer than what is needed for that: its length is counted in sectors.
    pub(crate) fn fill(&mut self, stored: &[u8], cluster: &mut [u8]) -> bool {
        match self {
            Self::Deflate(inflate) => {
                inflate.reset(false);
                let status = inflate.decompress(stored, cluster, FlushDecompress::Finish);
                // With the output full, the end marker may not have been reached.
                inflate.total_out() == cluster.len() as u64 && matches!(status, Ok(Status::StreamEnd | Status::BufError | Status::Ok))
            }
            Self::Zstd(decoder) => unzstd(decoder, stored, cluster),
        }
    }
}

fn unzstd(decoder: &mut ZstdDecoder<'static>, stored: &[u8], cluster: &mut [u8]) -> bool {
    if decoder.reinit().is_err() {
        return false;
    }
    let mut input = InBuffer::around(stored);
    let mut output = OutBuffer::around(cluster);
    loop {
        let before = (input.pos(), output.pos());
        if decoder.run(&mut input, &mut output).is_err() {
            return false;
        }
        if output.pos() == output.capacity() {
            return true;
        }
        if before == (input.pos(), output.pos()) {
            return false;
        }
    }
}
