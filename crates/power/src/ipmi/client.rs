//! A session with its socket: what [`super::session`] wants sent is sent, what comes is given to it. Nothing is decided here.

use std::{io, net::SocketAddr, time::Duration};

use rand::Rng;
use tokio::{
    net::{UdpSocket, lookup_host},
    time::{Instant, timeout_at},
};

use super::{
    session::{Account, Answer, Session, SessionError, Step},
    wire::{MAX_DATAGRAM, Request},
};

/// Why there is no client, or no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name has no address.
    #[error("the name cannot be resolved: {0}")]
    Name(#[source] io::Error),
    /// This host has no socket for it.
    #[error("no socket: {0}")]
    Socket(#[source] io::Error),
    /// The session says.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// An open session.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
    session: Session,
    began: Instant,
}

impl Client {
    /// Sets up a session with the BMC at this host (name or address) and UDP port. Silence is an error after 7 s; a BMC that answers each time in the last moment can draw it
    /// out to a minute, so calls have a bound of their own.
    ///
    /// # Errors
    /// No address, no socket, or what the handshake came to.
    pub async fn open(host: &str, port: u16, account: Account) -> Result<Self, ClientError> {
        let mut addresses = lookup_host((host, port)).await.map_err(ClientError::Name)?;
        let address = addresses.next().ok_or_else(|| ClientError::Name(io::ErrorKind::NotFound.into()))?;
        let local: SocketAddr = if address.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(local).await.map_err(ClientError::Socket)?;
        // Only the BMC is listened to.
        socket.connect(address).await.map_err(ClientError::Socket)?;
        let random = Box::new(|bytes: &mut [u8]| rand::rng().fill_bytes(bytes));
        let mut client = Self {
            socket,
            session: Session::new(account, random),
            began: Instant::now(),
        };
        match client.drive(None).await {
            Step::Failed(error) => Err(error.into()),
            _ => Ok(client),
        }
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`SessionError::Silent`]: the request was sent, and nobody knows what became of it.
    pub async fn ask(&mut self, request: Request) -> Result<Answer, SessionError> {
        self.session.ask(self.began.elapsed(), request);
        match self.drive(None).await {
            Step::Answer(answer) => Ok(answer),
            Step::Failed(error) => Err(error),
            // A session that is not closed ends a request with one of these two.
            Step::Send(_) | Step::Wait(_) | Step::Idle(_) | Step::Closed => Err(SessionError::Silent {
                what: "the request",
                request: true,
            }),
        }
    }

    /// Does nothing for a while, and keeps the session alive: for callers that hold one over several requests.
    ///
    /// # Errors
    /// The session is gone.
    pub async fn pause(&mut self, time: Duration) -> Result<(), SessionError> {
        match self.drive(Some(self.began.elapsed() + time)).await {
            Step::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends the session, so that the BMC has it for others: at once, or after a second of silence.
    pub async fn close(mut self) {
        self.session.close(self.began.elapsed());
        self.drive(None).await;
    }

    /// Goes on until there is something to tell, or, where it is idle, until then.
    async fn drive(&mut self, idle_until: Option<Duration>) -> Step {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let now = self.began.elapsed();
            let until = match self.session.step(now) {
                Step::Send(datagram) => {
                    // A refusal by the network is what a lost datagram is: it is sent again.
                    let _sent = self.socket.send(&datagram).await;
                    continue;
                }
                Step::Wait(until) => until,
                Step::Idle(keep_alive) => match idle_until {
                    Some(end) if now < end => keep_alive.min(end),
                    _ => return Step::Idle(keep_alive),
                },
                step @ (Step::Answer(_) | Step::Failed(_) | Step::Closed) => return step,
            };
            // Errors are told once each by the kernel (a port that is closed); the time goes on.
            if let Ok(Ok(length)) = timeout_at(self.began + until, self.socket.recv(&mut buffer)).await {
                let _ignored = self.session.receive(self.began.elapsed(), &buffer[..length]);
            }
        }
    }
}
