//! A TCP stream that remembers whether the other side closed it, below TLS where there is TLS: it is the kernel that
//! closes the sockets of a process that ends.
//!
//! gRPC reports a closed connection and one whose keep-alive ran out alike. To presence they are different things: a
//! closed one says that a process ended, silence says nothing by itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use crate::pki::tls::{PeerRole, TlsFailure, TlsStream};

/// How a connection ended; clones look at the same connection.
#[derive(Clone, Debug, Default)]
pub struct Closed(Arc<Ends>);

#[derive(Debug, Default)]
struct Ends {
    by_peer: AtomicBool,
    in_disagreement: AtomicBool,
}

impl Closed {
    /// The peer has closed or reset it.
    pub fn by_peer(&self) -> bool {
        self.0.by_peer.load(Ordering::Acquire)
    }

    /// The peer has said by TLS that it takes no certificate of ours. HTTP/2 does not hand that on.
    pub fn in_disagreement(&self) -> bool {
        self.0.in_disagreement.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.by_peer.store(true, Ordering::Release);
    }

    fn note<T>(&self, outcome: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(error)) = outcome
            && TlsFailure::of(error) == Some(TlsFailure::Disagreement)
        {
            self.0.in_disagreement.store(true, Ordering::Release);
        }
    }
}

/// What a service may ask about its connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// `None` in the clear.
    pub role: Option<PeerRole>,
    pub closed: Closed,
}

/// The stream itself.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    closed: Closed,
}

impl Watched {
    pub fn new(stream: TcpStream, closed: Closed) -> Self {
        Self { stream, closed }
    }
}

impl Connected for Watched {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { address: self.stream.peer_addr().ok(), role: None, closed: self.closed.clone() }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        let ended = match &outcome {
            Ok(()) => buffer.filled().len() == before && buffer.remaining() > 0,
            // ETIMEDOUT and EHOSTUNREACH are silence.
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted)
            }
        };
        if ended {
            self.closed.set();
        }
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        if let Err(error) = &outcome
            && matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        {
            self.closed.set();
        }
        Poll::Ready(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection between agents, or with Envoy.
#[derive(Debug)]
pub enum Wire {
    Plain(Watched),
    Secured { stream: Box<TlsStream<Watched>>, role: PeerRole },
}

impl Wire {
    pub fn secured(stream: TlsStream<Watched>) -> Self {
        let role = PeerRole::of(&stream);
        Self::Secured { stream: Box::new(stream), role }
    }
}

impl Connected for Wire {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Plain(stream) => stream.connect_info(),
            Self::Secured { stream, role } => {
                Peer { role: Some(role.clone()), ..stream.get_ref().0.connect_info() }
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secured { stream, .. } => {
                let outcome = Pin::new(&mut *stream).poll_read(cx, buffer);
                stream.get_ref().0.closed.note(&outcome);
                outcome
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secured { stream, .. } => {
                let outcome = Pin::new(&mut *stream).poll_write(cx, bytes);
                stream.get_ref().0.closed.note(&outcome);
                outcome
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
