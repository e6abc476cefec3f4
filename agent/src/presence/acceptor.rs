//! [`Door`]: accepts connections on the control port. A connection without a certificate of this fleet never gets to a
//! service, and a service takes one role alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Request, Status};
use tracing::warn;

use super::transport::{Closed, Peer, Watched, Wire};
use crate::pki::tls::{PeerRole, Tls, TlsFailure};

/// Longest handshake, and how many may go on at a time: the rest wait in the kernel.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
const MAX_HANDSHAKES: usize = 256;
/// A peer that is refused in a loop is logged this often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// After an accept that failed, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Clones share what was told.
#[derive(Clone)]
pub(super) struct Door {
    /// `None`: open to all.
    pub(super) tls: Option<Tls>,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    last: Option<Instant>,
    /// Refused since, without a word.
    more: u64,
}

impl Door {
    pub(super) fn new(tls: Option<Tls>) -> Self {
        Self { tls, told: Arc::default() }
    }

    /// The accepted connections. Handshakes run concurrently, so that a slow one delays no other.
    pub(super) fn incoming(
        &self,
        listener: TcpListener,
    ) -> impl Stream<Item = std::io::Result<Wire>> + Send + use<> {
        let state = (self.clone(), listener, JoinSet::new());
        unfold(state, |(door, listener, mut handshakes)| async move {
            loop {
                tokio::select! {
                    Some(done) = handshakes.join_next() => if let Ok(Some(wire)) = done {
                        return Some((Ok(wire), (door, listener, handshakes)));
                    },
                    accepted = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => match accepted {
                        Ok((stream, _)) => drop(handshakes.spawn(door.clone().greet(stream))),
                        // A listener does not break: what failed was one connection, or there is no room for it.
                        Err(_) => tokio::time::sleep(PAUSE).await,
                    },
                }
            }
        })
    }

    async fn greet(self, stream: TcpStream) -> Option<Wire> {
        // Without it an answer of a few bytes waits for the peer's acknowledgement.
        _ = stream.set_nodelay(true);
        let peer = stream.peer_addr().ok();
        let stream = Watched::new(stream, Closed::default());
        let Some(tls) = &self.tls else { return Some(Wire::Plain(stream)) };
        let why = match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
            Ok(Ok(stream)) => return Some(Wire::secured(stream)),
            // Gone without a word: a question that took too long, or a process that ended.
            Ok(Err(error)) if TlsFailure::of(&error).is_none() => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no handshake in time".to_owned(),
        };
        self.tell(peer.map(|peer| peer.to_string()), &why);
        None
    }

    /// Lets a request through to a service that is for `needed` alone.
    pub(super) fn admit(&self, request: &Request<()>, needed: &PeerRole) -> Result<(), Status> {
        if self.tls.is_none() {
            return Ok(());
        }
        let peer = request.extensions().get::<Peer>();
        let seen =
            peer.and_then(|peer| peer.role.clone()).unwrap_or(PeerRole::Other("no certificate".into()));
        if seen == *needed {
            return Ok(());
        }
        let why = format!("this is for the role {needed}, and the certificate shown is of {seen}");
        let address = peer.and_then(|peer| peer.address);
        self.tell(address.map(|address| address.to_string()), &why);
        Err(Status::permission_denied(why))
    }

    fn tell(&self, peer: Option<String>, why: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            told.more += 1;
            return;
        }
        let more = std::mem::take(&mut told.more);
        told.last = Some(Instant::now());
        warn!(name: "refused-at-the-control-port", peer, why, more, "refused at the control port");
    }
}
