//! A connection to libvirt's daemon: by its Unix socket, or by TLS with a certificate of our own.

use std::{io, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Address,
    message::{self, Complaint, Heard, Procedure},
};
use crate::{
    fault::{Fault, quoted},
    tls,
};

/// The longest time until the daemon listens to calls.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest time of one call. A machine that does not go is waited for by libvirt itself for 15 s.
const CALL: Duration = Duration::from_secs(17);
/// The most packets that are for nobody before an answer.
const OTHERS: usize = 64;

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// libvirt refuses.
    Complaint(Complaint),
    /// There is no answer, or none that makes sense.
    Lost(String),
    /// It is not one.
    Garbled(String),
}

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    serial: u32,
}

fn lost(error: &io::Error) -> Fault {
    match tls::distrust(error) {
        Some(why) => Fault::Untrusted(why),
        None => Fault::Unreachable(quoted(&error.to_string(), &[])),
    }
}

async fn connect(address: &Address) -> Result<Box<dyn Stream>, Fault> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            match stream {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Err(Fault::Privilege(format!("{}: {error}", path.display())))
                }
                Err(error) => Err(Fault::Unreachable(format!("{}: {error}", path.display()))),
            }
        }
        Address::Tls {
            host,
            port,
            trust,
            identity,
        } => {
            let config = trust.config_as(Some(identity))?;
            let name = ServerName::try_from(host.clone()).map_err(|_| Fault::Settings {
                field: "host",
                problem: "it is no name or address".to_owned(),
            })?;
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| lost(&error))?;
            let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            let mut stream = connected.map_err(|error| lost(&error))?;
            // The daemon says one byte when it has looked at our certificate, and hangs up where it does not like it.
            let mut accepted = [0];
            match stream.read_exact(&mut accepted).await {
                Ok(_) if accepted == [1] => Ok(Box::new(stream)),
                Ok(_) => Err(Fault::Garbled("it says nothing of our certificate".to_owned())),
                // It hangs up, with an alert of TLS or without one; anything else is the network's.
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => Err(Fault::Credentials(
                    format!("it does not take our certificate: {}", quoted(&error.to_string(), &[])),
                )),
                Err(error) => Err(lost(&error)),
            }
        }
    }
}

impl Connection {
    /// Connects, proves who we are as far as that needs no password, and opens the driver of the URI.
    ///
    /// # Errors
    /// The daemon is not to be had.
    pub async fn open(address: &Address, uri: &str) -> Result<Self, Fault> {
        let ready = async {
            let mut connection = Self {
                stream: connect(address).await?,
                serial: 0,
            };
            connection.authenticate().await?;
            match connection.ask(Procedure::Open, &message::open(uri)).await {
                Ok(_) => Ok(connection),
                Err(failed) => Err(before(failed, "open")),
            }
        };
        let silent = || Fault::Unreachable(format!("nothing for {} s", CONNECT.as_secs()));
        timeout(CONNECT, ready).await.unwrap_or_else(|_| Err(silent()))
    }

    async fn authenticate(&mut self) -> Result<(), Fault> {
        let list = self
            .ask(Procedure::AuthList, &[])
            .await
            .map_err(|failed| before(failed, "authentication"))?;
        let kinds = message::auth_kinds(&list).ok_or_else(|| Fault::Garbled("it does not tell how to authenticate".to_owned()))?;
        if kinds.is_empty() || kinds.contains(&0) {
            return Ok(());
        }
        if !kinds.contains(&2) {
            return Err(Fault::NotOffered {
                wanted: "a connection without SASL".to_owned(),
                offered: "SASL alone: set auth_unix_rw or auth_tls of libvirt's daemon to \"none\", and bound who has the socket or a certificate".to_owned(),
            });
        }
        match self.ask(Procedure::AuthPolkit, &[]).await {
            Ok(_) => Ok(()),
            Err(Failed::Complaint(complaint)) => Err(Fault::Credentials(format!("polkit: {}", quoted(&complaint.message, &[])))),
            Err(failed) => Err(before(failed, "polkit")),
        }
    }

    /// Makes a call.
    pub async fn ask(&mut self, procedure: Procedure, argument: &[u8]) -> Result<Vec<u8>, Failed> {
        self.serial = self.serial.wrapping_add(1);
        let packet = message::call(procedure, self.serial, argument);
        let answer = async {
            self.stream.write_all(&packet).await?;
            self.stream.flush().await?;
            for _ in 0..OTHERS {
                let mut length = [0; message::LENGTH];
                self.stream.read_exact(&mut length).await?;
                let Some(follows) = message::following(length) else {
                    return Ok(Err(Failed::Garbled(format!("a packet of {} bytes", u32::from_be_bytes(length)))));
                };
                let mut packet = vec![0; follows];
                self.stream.read_exact(&mut packet).await?;
                match message::hear(&packet, procedure, self.serial) {
                    Some(Heard::Answer(answer)) => return Ok(Ok(answer)),
                    Some(Heard::Complaint(complaint)) => return Ok(Err(Failed::Complaint(complaint))),
                    Some(Heard::Other) => {}
                    None => return Ok(Err(Failed::Garbled(format!("the answer to {procedure:?}")))),
                }
            }
            Ok::<_, io::Error>(Err(Failed::Garbled(format!("{OTHERS} packets and no answer"))))
        };
        match timeout(CALL, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(Failed::Lost(error.to_string())),
            Err(_) => Err(Failed::Lost(format!("nothing for {} s", CALL.as_secs()))),
        }
    }

    /// Ends it. Whether the daemon hears that does not matter: it sees the connection go.
    pub async fn close(mut self) {
        let packet = message::call(Procedure::Close, self.serial.wrapping_add(1), &[]);
        let _sent = timeout(Duration::from_secs(1), self.stream.write_all(&packet)).await;
    }
}

/// What it means when a call that changes nothing came to nothing.
pub(super) fn before(failed: Failed, what: &str) -> Fault {
    match failed {
        Failed::Lost(detail) => Fault::Unreachable(quoted(&detail, &[])),
        Failed::Garbled(detail) => Fault::Garbled(detail),
        Failed::Complaint(complaint) => refusal(&complaint, what),
    }
}

/// What it means when a command came to nothing.
pub(super) fn within(failed: Failed, what: &str) -> Fault {
    match failed {
        Failed::Lost(detail) | Failed::Garbled(detail) => Fault::Unanswered(format!("{what}: {}", quoted(&detail, &[]))),
        Failed::Complaint(complaint) => refusal(&complaint, what),
    }
}

/// What libvirt's own errors mean (`virErrorNumber` of `virterror.h`).
fn refusal(complaint: &Complaint, what: &str) -> Fault {
    let detail = format!("{what}: {}", quoted(&complaint.message, &[]));
    match complaint.code {
        // NO_SUPPORT, OPERATION_UNSUPPORTED, ARGUMENT_UNSUPPORTED, CONFIG_UNSUPPORTED
        3 | 67 | 74 | 84 => Fault::NotOffered {
            wanted: what.to_owned(),
            offered: format!("not that: {}", quoted(&complaint.message, &[])),
        },
        // AUTH_FAILED, AUTH_CANCELLED, AUTH_UNAVAILABLE
        45 | 79 | 80 => Fault::Credentials(detail),
        // OPERATION_DENIED, ACCESS_DENIED
        29 | 88 => Fault::Privilege(detail),
        // OPERATION_TIMEOUT, RESOURCE_BUSY
        68 | 87 => Fault::Busy { detail, after: None },
        _ => Fault::Refused(detail),
    }
}
