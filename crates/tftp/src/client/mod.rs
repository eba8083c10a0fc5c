//! The client's side of one transfer, as pure as the server's: a packet or the time in, content and at most one packet out. [`fetch`] is the same over
//! a socket.
//!
//! For whoever has to know whether a server answers machines, and what it gives them; tests and the benchmark drive the same code over a simulated
//! network and over sockets. Like EDK2's client it acknowledges every block that it did not expect with the last one that it has, which asks the most
//! of a server. It does not write files to a server.

mod fetch;

use std::time::Duration;

pub use self::fetch::{FetchError, Fetched, fetch};
use crate::{
    Time,
    wire::{DEFAULT_BLOCK_SIZE, ErrorCode, Mode, OptionKind, Options, Packet, Request},
};

/// Time between tries, unless the option `timeout` is asked for.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Timers in a row that run out before it gives up.
const TRIES: u32 = 8;

/// Why a download failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// Nothing came.
    #[error("the server does not answer")]
    Silent,
    /// The server sent ERROR.
    #[error("the server refused: {code}: {message}")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its text.
        message: String,
    },
    /// The server does not keep to what was asked for.
    #[error("the server answered with options that were not asked for")]
    Options,
    /// A block is longer than agreed.
    #[error("the server sent a block that is longer than agreed")]
    Block,
}

/// One download.
#[derive(Debug)]
pub struct Download {
    name: String,
    asked: Options,
    /// Block size in bytes and window in blocks, once there is an answer.
    agreed: Option<(usize, u16)>,
    /// Next block, counted from 1 without rolling over.
    expected: u64,
    unacknowledged: u16,
    size: Option<u64>,
    received: u64,
    tries: u32,
    deadline: Time,
    result: Option<Result<(), DownloadError>>,
}

impl Download {
    /// A download by `name` with these options; writes the request into `out`.
    pub fn start(name: &str, asked: Options, now: Time, out: &mut Vec<u8>) -> Self {
        let mut download = Self {
            name: name.to_owned(),
            asked,
            agreed: None,
            expected: 1,
            unacknowledged: 0,
            size: None,
            received: 0,
            tries: 0,
            deadline: now,
            result: None,
        };
        download.request(out);
        download.wait(now);
        download
    }

    /// How it ended.
    pub fn result(&self) -> Option<&Result<(), DownloadError>> {
        self.result.as_ref()
    }

    /// When [`Self::timer`] wants to be called; `None` when it has ended.
    pub fn deadline(&self) -> Option<Time> {
        self.result.is_none().then_some(self.deadline)
    }

    /// Whether the server has answered, so that its port is known and no other may be listened to.
    pub fn answered(&self) -> bool {
        self.agreed.is_some()
    }

    /// The whole size in bytes as the server said it (`tsize`).
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Bytes of content so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes a packet of the server; returns the content that comes next, and writes the packet to send into `out` (empty: none).
    ///
    /// Also to be called for a while after the end: when the last acknowledgement was lost, the server asks once more (RFC 1350 section 6).
    pub fn handle<'a>(&mut self, packet: &Packet<'a>, now: Time, out: &mut Vec<u8>) -> Option<&'a [u8]> {
        out.clear();
        match *packet {
            Packet::OptionAck(answer) => self.agree(&answer, now, out),
            Packet::Data { block, data } => return self.data(block, data, now, out),
            Packet::Error { code, message } if self.result.is_none() => {
                self.result = Some(Err(DownloadError::Refused {
                    code,
                    message: message.escape_ascii().to_string(),
                }));
            }
            _ => {}
        }
        None
    }

    /// Time passed; writes the packet to send into `out` (empty: none).
    pub fn timer(&mut self, now: Time, out: &mut Vec<u8>) {
        out.clear();
        if self.result.is_some() || now < self.deadline {
            return;
        }
        self.tries += 1;
        if self.tries > TRIES {
            self.result = Some(Err(DownloadError::Silent));
        } else if self.agreed.is_none() {
            self.request(out);
        } else {
            self.acknowledge(out);
        }
        self.wait(now);
    }

    fn agree(&mut self, answer: &Options, now: Time, out: &mut Vec<u8>) {
        if self.agreed.is_some() {
            // A copy, because our acknowledgement was lost; later it is only late.
            if self.expected == 1 {
                self.acknowledge(out);
            }
            return;
        }
        if self.result.is_some() {
            return;
        }
        let fits = |(kind, value): (OptionKind, u64)| match (kind, self.asked.get(kind)) {
            (_, None) => false,
            (OptionKind::BlockSize | OptionKind::WindowSize, Some(asked)) => (1..=asked).contains(&value),
            (OptionKind::Timeout, Some(asked)) => value == asked,
            (OptionKind::TransferSize, Some(_)) => true,
        };
        if answer.is_empty() || !answer.iter().all(fits) {
            self.result = Some(Err(DownloadError::Options));
            Packet::Error {
                code: ErrorCode::OPTIONS,
                message: b"these options were not asked for",
            }
            .encode(out);
            return;
        }
        let block_size = answer
            .get(OptionKind::BlockSize)
            .map_or(usize::from(DEFAULT_BLOCK_SIZE), |bytes| bytes as usize);
        let window = answer
            .get(OptionKind::WindowSize)
            .map_or(1, |blocks| u16::try_from(blocks).unwrap_or(u16::MAX));
        self.agreed = Some((block_size, window));
        self.size = answer.get(OptionKind::TransferSize);
        self.progress(now);
        self.acknowledge(out);
    }

    fn data<'a>(&mut self, block: u16, data: &'a [u8], now: Time, out: &mut Vec<u8>) -> Option<&'a [u8]> {
        let (block_size, window) = match self.agreed {
            Some(agreed) => agreed,
            // A server without options begins with the first block.
            None if block == 1 => (usize::from(DEFAULT_BLOCK_SIZE), 1),
            None => return None,
        };
        if matches!(self.result, Some(Err(_))) {
            return None;
        }
        if self.result.is_some() || block != self.expected as u16 {
            self.acknowledge(out);
            return None;
        }
        if data.len() > block_size {
            self.result = Some(Err(DownloadError::Block));
            Packet::Error {
                code: ErrorCode::ILLEGAL,
                message: b"the block is longer than agreed",
            }
            .encode(out);
            return None;
        }
        self.agreed = Some((block_size, window));
        self.expected += 1;
        self.received += data.len() as u64;
        self.unacknowledged += 1;
        self.progress(now);
        let last = data.len() < block_size;
        if last {
            self.result = Some(Ok(()));
        }
        if last || self.unacknowledged >= window {
            self.acknowledge(out);
        }
        Some(data)
    }

    fn request(&self, out: &mut Vec<u8>) {
        Packet::Read(Request {
            name: self.name.as_bytes(),
            mode: Mode::Octet,
            options: self.asked,
        })
        .encode(out);
    }

    fn acknowledge(&mut self, out: &mut Vec<u8>) {
        self.unacknowledged = 0;
        Packet::Ack {
            block: (self.expected - 1) as u16,
        }
        .encode(out);
    }

    fn progress(&mut self, now: Time) {
        self.tries = 0;
        self.wait(now);
    }

    fn wait(&mut self, now: Time) {
        let wait = self.asked.get(OptionKind::Timeout).map_or(TIMEOUT, Duration::from_secs);
        self.deadline = now.saturating_add(wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_secs(1);

    fn start(asked: &[(OptionKind, u64)]) -> Download {
        let mut options = Options::default();
        for (kind, value) in asked {
            options.push(*kind, *value);
        }
        Download::start("a", options, START, &mut Vec::new())
    }

    fn oack(answer: &[(OptionKind, u64)]) -> Packet<'static> {
        let mut options = Options::default();
        for (kind, value) in answer {
            options.push(*kind, *value);
        }
        Packet::OptionAck(options)
    }

    /// What it answers.
    fn answer(download: &mut Download, packet: &Packet<'_>) -> Option<u16> {
        let mut out = Vec::new();
        download.handle(packet, START, &mut out);
        match Packet::parse(&out) {
            Ok(Packet::Ack { block }) => Some(block),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    }

    #[test]
    fn windows_are_acknowledged_as_a_whole_and_gaps_at_once() {
        let mut download = start(&[(OptionKind::WindowSize, 3), (OptionKind::BlockSize, 8)]);
        assert_eq!(
            answer(&mut download, &oack(&[(OptionKind::WindowSize, 3), (OptionKind::BlockSize, 8)])),
            Some(0)
        );
        let full = |block| Packet::Data { block, data: b"12345678" };
        assert_eq!(answer(&mut download, &full(1)), None);
        assert_eq!(answer(&mut download, &full(2)), None);
        assert_eq!(answer(&mut download, &full(3)), Some(3));
        assert_eq!(answer(&mut download, &full(5)), Some(3), "block 4 is missing");
        assert_eq!(answer(&mut download, &full(4)), None);
        assert_eq!(answer(&mut download, &Packet::Data { block: 5, data: b"" }), Some(5));
        assert_eq!((download.result(), download.received()), (Some(&Ok(())), 32));
        assert_eq!(answer(&mut download, &full(5)), Some(5), "the last acknowledgement was lost");
    }

    #[test]
    fn answers_that_were_not_asked_for() {
        for wrong in [
            &[(OptionKind::WindowSize, 4)][..],
            &[(OptionKind::BlockSize, 600)],
            &[(OptionKind::Timeout, 3)],
            &[],
        ] {
            let mut download = start(&[(OptionKind::BlockSize, 512), (OptionKind::Timeout, 2)]);
            let mut out = Vec::new();
            download.handle(&oack(wrong), START, &mut out);
            assert_eq!(download.result(), Some(&Err(DownloadError::Options)), "{wrong:?}");
            assert!(matches!(
                Packet::parse(&out),
                Ok(Packet::Error {
                    code: ErrorCode::OPTIONS,
                    ..
                })
            ));
        }
    }

    #[test]
    fn silence_ends_it() {
        let mut download = start(&[]);
        let mut out = Vec::new();
        let mut requests = 0;
        while let Some(deadline) = download.deadline() {
            download.timer(deadline, &mut out);
            requests += u32::from(matches!(Packet::parse(&out), Ok(Packet::Read(_))));
        }
        assert_eq!((download.result(), requests), (Some(&Err(DownloadError::Silent)), TRIES));
    }
}
