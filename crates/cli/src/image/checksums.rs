//! Files of checksums as publishers put them beside their images: `SHA256SUMS`, `CHECKSUM`, `image.raw.xz.sha256`.
//!
//! Lines are those of `sha256sum` and `sha512sum` (`DIGEST  NAME`, or `DIGEST *NAME`), those with `--tag` (`SHA256 (NAME) = DIGEST`), or one digest alone. Signatures are not looked at: who
//! fetches the file by https trusts its server.

use std::io::Read;

use anyhow::{Context, Result, bail};
use image::{Digest, FileSource, HttpLimits, HttpSource, Source};

use super::source;

/// Largest file of checksums.
const MOST_BYTES: u64 = 1 << 20;

/// The digest that a file of checksums, a path or a URL, names for an image.
pub fn digest_of(image: &str, checksums: &str) -> Result<Digest> {
    let mut file: Box<dyn Source> = if source::is_url(checksums) {
        if checksums.starts_with("http:") {
            tracing::warn!("{checksums} came without https: whoever is on the way could have written it");
        }
        let limits = HttpLimits {
            max_bytes: MOST_BYTES,
            ..HttpLimits::default()
        };
        Box::new(HttpSource::new(source::client()?, checksums, limits)?)
    } else {
        Box::new(FileSource::open(checksums.as_ref())?)
    };
    let mut text = String::new();
    let read = file.stream()?.take(MOST_BYTES).read_to_string(&mut text);
    read.with_context(|| format!("reading {checksums}"))?;
    let name = file_name(image);
    find(&text, name).with_context(|| format!("{checksums} has no SHA-256 or SHA-512 checksum of {name}: give another file, or --digest"))
}

/// The last part of a path or URL, without a query.
fn file_name(image: &str) -> &str {
    let path = image.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

fn find(text: &str, name: &str) -> Result<Digest> {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    if let Some(found) = lines().find_map(|line| named(line).filter(|(of, _)| file_name(of) == name)) {
        return Ok(found.1);
    }
    // One digest and nothing else is that of the file beside it.
    let mut alone = lines();
    match (alone.next().and_then(digest), alone.next()) {
        (Some(digest), None) => Ok(digest),
        _ => bail!("no line names it"),
    }
}

/// The name on a line, and its digest.
fn named(line: &str) -> Option<(&str, Digest)> {
    if let Some((algorithm, rest)) = line.split_once(" (")
        && let Some((name, hex)) = rest.rsplit_once(") = ")
    {
        let found = digest(hex)?;
        let fits = found
            .to_string()
            .starts_with(&format!("{}:", algorithm.to_ascii_lowercase().replace('-', "")));
        return fits.then_some((name, found));
    }
    let (hex, name) = line.split_once([' ', '\t'])?;
    Some((name.trim_start().trim_start_matches('*'), digest(hex)?))
}

/// Which algorithm it is, its length says.
fn digest(hex: &str) -> Option<Digest> {
    let algorithm = match hex.len() {
        64 => "sha256",
        128 => "sha512",
        _ => return None,
    };
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_image_counts_in_each_of_the_forms() {
        let (right, wrong) = ("a".repeat(64), "b".repeat(64));
        let long = "c".repeat(128);
        for text in [
            format!("{wrong}  other.raw\n{right}  debian.raw.zst\n"),
            format!("{wrong} *debian.raw\n{right} *./debian.raw.zst\n"),
            format!(
                "# a comment\nMD5 (debian.raw.zst) = {}\nSHA256 (debian.raw.zst) = {right}\n",
                "0".repeat(32)
            ),
            format!("{right}\n"),
            format!("{right}  dir/debian.raw.zst\r\n"),
        ] {
            let found = find(&text, file_name("https://host/x/debian.raw.zst?key=1")).expect(&text);
            assert_eq!(found.to_string(), format!("sha256:{right}"), "{text}");
        }
        let found = find(&format!("SHA512 (debian.raw.zst) = {long}"), "debian.raw.zst").unwrap();
        assert_eq!(found.to_string(), format!("sha512:{long}"));
        for text in [
            format!("{wrong}  other.raw\n"),
            format!("{wrong}\n{right}\n"),
            format!("{wrong}  debian.raw.zst.sig\n"),
            format!("SHA512 (debian.raw.zst) = {right}\n"),
            "<html>404</html>".to_owned(),
            String::new(),
        ] {
            assert!(find(&text, "debian.raw.zst").is_err(), "{text}");
        }
    }
}
