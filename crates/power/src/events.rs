//! What a controller tells by itself. Only *that* it told something counts, never what: whoever hears of it looks at the machine.
//!
//! Two ways: the controller sends to a URL ([`Subscription`]), or keeps a connection open ([`Stream`]). Neither is owed anything: events are lost, late, doubled and
//! forged, so a machine that tells is looked at from time to time like any other.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{Method, Response};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::{fault::Fault, web};

/// Whether a URL that a subscription names is one that is wanted by somebody.
pub type Wanted = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where a controller is to send its events.
#[derive(Clone)]
pub struct Subscription {
    /// The URL. Whoever knows it can make us look, so it is shown nowhere.
    pub destination: SecretString,
    /// How all URLs of this installation begin.
    pub prefix: String,
    /// What this installation writes beside its URLs, to know them again when they have changed.
    pub context: String,
    /// Whether the controller is to be told not to check the certificate at the URL.
    pub unverified: bool,
    /// Of subscriptions of this installation's that a controller has beside this one: whether they are to stay. All others of its own are taken away.
    pub is_wanted: Wanted,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("prefix", &self.prefix)
            .field("unverified", &self.unverified)
            .finish_non_exhaustive()
    }
}

/// A URL as it is compared: services write them anew, with their default port or in lower case.
#[must_use]
pub fn plain(url: &str) -> String {
    let parsed = reqwest::Url::parse(url);
    parsed.map_or_else(|_| url.to_owned(), |url| url.to_string())
}

impl Subscription {
    /// What is secret in the URL: what follows the prefix.
    pub(crate) fn secret(&self) -> &str {
        let url = self.destination.expose_secret();
        url.strip_prefix(&self.prefix).unwrap_or(url)
    }
}

/// Events that come over a connection of their own (server-sent events, WHATWG HTML 9.2).
pub struct Stream {
    response: Response,
    framing: Framing,
    /// Events that came with the same bytes as one that was told.
    more: bool,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) const fn new(response: Response) -> Self {
        Self {
            response,
            framing: Framing::new(),
            more: false,
        }
    }

    /// Waits until something was told, for as long as it takes. Several events that come at once are one.
    ///
    /// # Errors
    /// The stream has ended, or broke off.
    pub async fn next(&mut self) -> Result<(), Fault> {
        while !std::mem::take(&mut self.more) {
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.more = self.framing.feed(&bytes),
                Ok(None) => return Err(Fault::Unreachable("the stream of events has ended".to_owned())),
                Err(error) => return Err(web::lost(&Method::GET, error)),
            }
        }
        Ok(())
    }

    /// As [`Stream::next`], for so long at most. False: nothing was told.
    ///
    /// # Errors
    /// The stream has ended, or broke off.
    pub async fn next_within(&mut self, time: Duration) -> Result<bool, Fault> {
        timeout(time, self.next()).await.map_or(Ok(false), |told| told.map(|()| true))
    }
}

/// Where in a stream of events we are. It keeps nothing of what it reads. Pure.
#[derive(Debug, Clone, Copy)]
struct Framing {
    /// How much of the line so far is the beginning of `data`; none where it is another line.
    matched: Option<usize>,
    /// Whether the line has nothing in it yet.
    empty: bool,
    /// Whether the event so far has data: without, it is none.
    data: bool,
    /// Whether the last byte was a carriage return, whose line feed is no further line.
    carriage: bool,
}

const FIELD: &[u8] = b"data";

impl Framing {
    const fn new() -> Self {
        Self {
            matched: Some(0),
            empty: true,
            data: false,
            carriage: false,
        }
    }

    /// Whether an event ended within these bytes.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut ended = false;
        for byte in bytes {
            let carriage = std::mem::take(&mut self.carriage);
            match byte {
                b'\n' if carriage => {}
                b'\r' | b'\n' => {
                    self.carriage = *byte == b'\r';
                    self.data |= self.matched == Some(FIELD.len());
                    if self.empty {
                        ended |= std::mem::take(&mut self.data);
                    }
                    self.empty = true;
                    self.matched = Some(0);
                }
                byte => {
                    self.empty = false;
                    self.matched = match self.matched {
                        Some(at) if FIELD.get(at) == Some(byte) => Some(at + 1),
                        Some(at) if at == FIELD.len() && *byte == b':' => {
                            self.data = true;
                            None
                        }
                        _ => None,
                    };
                }
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_what_has_data_and_ends_with_an_empty_line() {
        for (text, events) in [
            ("id: 1\ndata: {}\n\n", 1),
            ("data\n\n", 1),
            (": stay\n\n: stay\n\n", 0),
            ("id: 1\n\n", 0),
            ("data: {\ndata: }\r\n\r\nretry: 5\r\rdata:x\r\r", 2),
            ("database: 1\n\ndat\n\n data: 1\n\n", 0),
            ("data: cut off\n", 0),
        ] {
            // However the bytes come.
            let mut framing = Framing::new();
            let seen = text.bytes().filter(|byte| framing.feed(&[*byte])).count();
            assert_eq!(seen, events, "{text:?}");
            assert_eq!(Framing::new().feed(text.as_bytes()), events > 0, "{text:?}");
        }
    }

    #[test]
    fn a_subscription_shows_no_secret() {
        let subscription = Subscription {
            destination: "https://example.com/bmc-events/0123abcd".to_owned().into(),
            prefix: "https://example.com/bmc-events/".to_owned(),
            context: "ours".to_owned(),
            unverified: true,
            is_wanted: Arc::new(|_| false),
        };
        assert_eq!(subscription.secret(), "0123abcd");
        assert!(!format!("{subscription:?}").contains("0123abcd"));
    }
}
