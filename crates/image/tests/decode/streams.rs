//! Raw, gz, xz and zst: how they may be cut into members, streams, blocks and frames, and every way to end too early.

use std::io::{Cursor, Read, Write};

use image::{Digest, FaultKind, Format, ImageError};
use proptest::prelude::*;

use crate::collect::{Collect, Scripted, limit, read, read_from};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One stream; with a block size, in blocks of that many bytes that tell their sizes.
fn xz(bytes: &[u8], block: u64) -> Vec<u8> {
    let stream = if block == 0 {
        liblzma::stream::Stream::new_easy_encoder(0, liblzma::stream::Check::Crc64).unwrap()
    } else {
        let mut builder = liblzma::stream::MtStreamBuilder::new();
        builder.threads(1).block_size(block).preset(0).check(liblzma::stream::Check::Crc32);
        builder.encoder().unwrap()
    };
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8], tells_size: bool) -> Vec<u8> {
    if tells_size {
        return zstd::bulk::compress(bytes, 1).unwrap();
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image out of runs: zeros, text or noise.
fn image_of(runs: &[(u8, usize)]) -> Vec<u8> {
    let (mut image, mut state) = (vec![0; 512], 1u64);
    for &(kind, length) in runs {
        match kind {
            0 => image.resize(image.len() + length, 0),
            1 => image.extend(b"a line of text like many others\n".iter().cycle().take(length)),
            _ => image.extend(
                std::iter::repeat_with(|| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .take(length),
            ),
        }
    }
    image
}

/// The image in pieces, each compressed by itself.
fn in_pieces(image: &[u8], cuts: &[prop::sample::Index], compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(image.len())).collect();
    at.extend([0, image.len()]);
    at.sort_unstable();
    at.windows(2).flat_map(|pair| compress(&image[pair[0]..pair[1]])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_images_arrive_through_every_format(
        runs in prop::collection::vec((0u8..3, 1usize..500_000), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        block in prop_oneof![Just(4096u64), Just(65_536), Just(100_000), Just(1 << 20)],
        tells_size in any::<bool>(),
    ) {
        let image = image_of(&runs);
        prop_assert!(read(&image, None).unwrap() == image);
        let stored = in_pieces(&image, &cuts, gzip);
        prop_assert!(read(&stored, Some(Format::Gzip)).unwrap() == image);
        let stored = in_pieces(&image, &cuts, |piece| xz(piece, 0));
        prop_assert!(read(&stored, Some(Format::Xz)).unwrap() == image);
        let stored = in_pieces(&image, &cuts, |piece| xz(piece, block));
        prop_assert!(read(&stored, Some(Format::Xz)).unwrap() == image);
        // Streams of both kinds, with the padding that is allowed between them.
        let mixed = in_pieces(&image, &cuts, |piece| [xz(piece, if piece.len() % 2 == 0 { block } else { 0 }), vec![0; 8]].concat());
        prop_assert!(read(&mixed, Some(Format::Xz)).unwrap() == image);
        let stored = in_pieces(&image, &cuts, |piece| [zst(piece, tells_size), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec()].concat());
        prop_assert!(read(&stored, Some(Format::Zstd)).unwrap() == image);
    }
}

/// Stored forms of one small image.
fn forms() -> (Vec<u8>, Vec<(&'static str, Vec<u8>)>) {
    let image = image_of(&[(2, 3000), (0, 70_000), (1, 80_000), (2, 2000)]);
    let forms = vec![
        ("gz", gzip(&image)),
        ("xz", xz(&image, 0)),
        ("xz in blocks", xz(&image, 32_768)),
        ("zst", zst(&image, false)),
        ("zst with its size", zst(&image, true)),
    ];
    (image, forms)
}

#[test]
fn a_stream_cut_short_anywhere_is_never_an_image() {
    let (image, forms) = forms();
    for (what, stored) in forms {
        assert!(read(&stored, None).unwrap() == image, "{what}");
        let whole = Digest::sha256_of(&stored);
        // Every length near an end or a border of something, and some between.
        let lengths = (6..stored.len()).filter(|length| *length < 100 || stored.len() - length < 100 || length % 37 == 0);
        for length in lengths {
            let cut = &stored[..length];
            let error = read(cut, None).expect_err(what);
            assert_eq!(error.kind(), FaultKind::Truncated, "{what} of {length} bytes: {error}");
            // It is another file than was asked for: that is what is said.
            let source = image::MemorySource::new("image", cut);
            let error = read_from(Box::new(source), &whole, None).expect_err(what);
            assert_eq!(error.kind(), FaultKind::DigestMismatch, "{what} of {length} bytes: {error}");
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_is_never_another_image() {
    let (image, forms) = forms();
    for (what, stored) in forms {
        for at in (6..stored.len()).filter(|at| *at < 60 || stored.len() - at < 100 || at % 41 == 0) {
            let mut damaged = stored.clone();
            damaged[at] ^= 0x10;
            let source = image::MemorySource::new("image", damaged.clone());
            let error = read_from(Box::new(source), &Digest::sha256_of(&stored), None).expect_err(what);
            let kinds = [
                FaultKind::DigestMismatch,
                FaultKind::UnsupportedImage,
                FaultKind::TooLarge,
                FaultKind::FormatMismatch,
            ];
            assert!(kinds.contains(&error.kind()), "{what} at {at}: {error}");
            // With its own digest: some bytes mean nothing (the time in a gzip header), and where there is no checksum nobody can tell.
            if what.starts_with("xz")
                && let Ok(disk) = read(&damaged, None)
            {
                assert!(disk == image, "{what} at {at}");
            }
        }
    }
}

/// Gives some bytes, then fails as a source does.
struct Failing {
    bytes: Cursor<Vec<u8>>,
}

impl Read for Failing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.bytes.read(buffer)? {
            0 => Err(std::io::Error::other(ImageError::Unreachable {
                source_name: "scripted".to_owned(),
                reason: "somebody pulled the cable".to_owned(),
            })),
            count => Ok(count),
        }
    }
}

#[test]
fn a_fault_of_the_source_is_told_before_what_it_did_to_the_stream() {
    let (image, mut forms) = forms();
    forms.push(("raw", image));
    for (what, stored) in forms {
        for length in [stored.len() / 3, stored.len() - 3, stored.len()] {
            let bytes = stored[..length].to_vec();
            let source = Scripted(move || {
                Box::new(Failing {
                    bytes: Cursor::new(bytes.clone()),
                }) as Box<dyn Read + Send>
            });
            let error = read_from(Box::new(source), &Digest::sha256_of(&stored), None).expect_err(what);
            assert_eq!(error.kind(), FaultKind::Unreachable, "{what} after {length} bytes: {error}");
            assert!(error.to_string().contains("cable"), "{error}");
        }
    }
}

/// The same bytes again and again, for ever.
struct Endless {
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.bytes.len() {
            self.at = 0;
        }
        let count = buffer.len().min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// With a source that never ends, this test ends only if a sink's refusal does stop everything.
#[test]
fn a_sink_that_takes_no_more_ends_everything() {
    let image = image_of(&[(2, 300_000), (0, 200_000)]);
    for (what, stored) in [
        ("raw", image.clone()),
        ("gz", gzip(&image)),
        ("xz", xz(&image, 0)),
        ("xz in blocks", xz(&image, 65_536)),
        ("zst", zst(&image, true)),
    ] {
        for most in [0, 1, 5] {
            let stored = stored.clone();
            let source = Scripted(move || {
                Box::new(Endless {
                    bytes: stored.clone(),
                    at: 0,
                }) as Box<dyn Read + Send>
            });
            let opened = image::open(Box::new(source), &Digest::sha256_of(b""), None, &limit(u64::MAX)).unwrap();
            let sink = Collect::new(opened.granule(), most);
            let error = opened.copy_to(&sink).expect_err(what);
            assert!(matches!(error, ImageError::Cancelled), "{what}: {error}");
        }
    }
}

#[test]
fn an_endless_stream_ends_at_the_size_of_the_disk() {
    let image = image_of(&[(2, 300_000), (0, 200_000)]);
    for (what, stored) in [
        ("raw", image.clone()),
        ("gz", gzip(&image)),
        ("xz", xz(&image, 65_536)),
        ("zst", zst(&image, false)),
    ] {
        let source = Scripted(move || {
            Box::new(Endless {
                bytes: stored.clone(),
                at: 0,
            }) as Box<dyn Read + Send>
        });
        let opened = image::open(Box::new(source), &Digest::sha256_of(b""), None, &limit(5 << 20)).unwrap();
        let error = opened.copy_to(&Collect::new(4096, usize::MAX)).expect_err(what);
        assert_eq!(error.kind(), FaultKind::TooLarge, "{what}: {error}");
    }
}
