//! Names and addresses of controllers that are no URL, as settings have them. Pure.

use crate::fault::Fault;

/// Whether a text can be a name or an address.
///
/// # Errors
/// [`Fault::Settings`] for `host`.
pub(crate) fn check(host: &str) -> Result<(), Fault> {
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(Fault::Settings {
            field: "host",
            problem: "it is no name or address: write one without port and path".to_owned(),
        });
    }
    Ok(())
}

/// Host and port, for people and as the key of a controller.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
