//! [`Proxy`]: one link between two parts, with every way in which a link can fail.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::sockets;

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Open,
    /// Each byte arrives this much later, in both directions, in order.
    Delayed(Duration),
    /// Open connections are reset, new ones are reset at once: a host that is down but whose network answers.
    Cut,
    /// Nothing passes and nobody is told; new connections are accepted and never answered. What was under way arrives
    /// when the link opens again, as with TCP over a network that comes back.
    Silent,
    /// As `Silent`, but only for what comes back from the target.
    Deaf,
}

/// A listener that passes everything on to one target. Dropping it resets what passes through.
#[derive(Debug)]
pub struct Proxy {
    pub listen: SocketAddrV4,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct State {
    target: SocketAddrV4,
    link: Link,
    /// Links of single clients, by their process ids.
    of: BTreeMap<i32, Link>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToTarget,
    FromTarget,
}

impl Proxy {
    /// Listens at `listen`. The target need not be there: while it is not, connections are reset.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(listen: SocketAddrV4, target: SocketAddrV4) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let state = watch::Sender::new(State { target, link: Link::Open, of: BTreeMap::new() });
        let states = state.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, SocketAddr::V4(peer))) = listener.accept() => {
                        connections.spawn(follow(client, (peer, listen), states.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { listen, state, task })
    }

    /// Changes the link now, for everybody and for open connections too.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| {
            state.link = link;
            state.of.clear();
        });
    }

    /// Changes the link of one client, a process by its id.
    pub fn set_for(&self, client: i32, link: Link) {
        self.state.send_modify(|state| {
            state.of.insert(client, link);
        });
    }

    /// The address changes hands: open connections are reset, new ones reach somebody else.
    pub fn redirect(&self, target: SocketAddrV4) {
        self.state.send_modify(|state| state.target = target);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Delayed(_) => true,
            Self::Cut | Self::Silent => false,
            Self::Deaf => direction == Direction::ToTarget,
        }
    }

    fn delay(self) -> Duration {
        if let Self::Delayed(delay) = self { delay } else { Duration::ZERO }
    }
}

/// Passes one connection on by the link of whoever opened it.
async fn follow(client: TcpStream, ends: (SocketAddrV4, SocketAddrV4), mut states: watch::Receiver<State>) {
    let socket = sockets::inode(ends.0, ends.1);
    let link_in = |state: &State| {
        let own =
            state.of.iter().find(|(client, _)| socket.is_some_and(|inode| sockets::holds(**client, inode)));
        own.map_or(state.link, |(_, link)| *link)
    };
    let now = states.borrow_and_update().clone();
    let own = watch::Sender::new(link_in(&now));
    let changes = async {
        while states.changed().await.is_ok() {
            let later = states.borrow_and_update().clone();
            own.send_replace(if later.target == now.target { link_in(&later) } else { Link::Cut });
        }
        std::future::pending().await
    };
    tokio::select! {
        () = pass(client, now.target, own.subscribe()) => {}
        () = changes => {}
    }
}

async fn pass(mut client: TcpStream, target: SocketAddrV4, link: watch::Receiver<Link>) {
    let _ = client.set_nodelay(true);
    let mut cut = link.clone();
    let mut upstream = None;
    let ended = tokio::select! {
        _ = cut.wait_for(|link| *link == Link::Cut) => Err(io::ErrorKind::ConnectionReset.into()),
        ended = exchange(&mut client, &mut upstream, target, link) => ended,
    };
    // Without this a cut would be an orderly goodbye.
    if ended.is_err() {
        let _ = client.set_zero_linger();
        if let Some(upstream) = upstream {
            let _ = upstream.set_zero_linger();
        }
    }
}

async fn exchange(
    client: &mut TcpStream,
    upstream: &mut Option<TcpStream>,
    target: SocketAddrV4,
    link: watch::Receiver<Link>,
) -> io::Result<()> {
    until_passing(&link, Direction::ToTarget).await?;
    let upstream = upstream.insert(TcpStream::connect(target).await?);
    upstream.set_nodelay(true)?;
    let (client_read, client_write) = client.split();
    let (upstream_read, upstream_write) = upstream.split();
    let ended = tokio::try_join!(
        pump(client_read, upstream_write, &link, Direction::ToTarget),
        pump(upstream_read, client_write, &link, Direction::FromTarget),
    );
    // A silent link also hides that the other end has died.
    until_passing(&link, Direction::FromTarget).await?;
    ended.map(|_| ())
}

/// Passes one direction on until its end. Reading goes on while earlier bytes wait, up to 1 MiB, so that a delay
/// does not become a limit of the throughput.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    link: &watch::Receiver<Link>,
    direction: Direction,
) -> io::Result<()> {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async move {
        loop {
            let mut chunk = vec![0; 16 * 1024];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            let due = Instant::now() + link.borrow().delay();
            if length == 0 || queue.send((due, chunk)).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let write = async {
        while let Some((due, chunk)) = queued.recv().await {
            sleep_until(due).await;
            until_passing(link, direction).await?;
            to.write_all(&chunk).await?;
        }
        until_passing(link, direction).await?;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

async fn until_passing(link: &watch::Receiver<Link>, direction: Direction) -> io::Result<()> {
    let passing = link.clone().wait_for(|link| link.passes(direction)).await.map(|_| ());
    passing.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> (SocketAddrV4, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        (address, task)
    }

    async fn through_proxy() -> (Proxy, TcpStream) {
        let (target, _echo) = echo().await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let proxy = Proxy::start(SocketAddrV4::new([127, 0, 0, 1].into(), free), target).await.unwrap();
        let client = TcpStream::connect(proxy.listen).await.unwrap();
        (proxy, client)
    }

    async fn echoed(client: &mut TcpStream, text: &[u8; 4]) -> io::Result<()> {
        client.write_all(text).await?;
        let mut back = [0; 4];
        client.read_exact(&mut back).await?;
        assert_eq!(&back, text);
        Ok(())
    }

    #[tokio::test]
    async fn delayed_bytes_arrive_in_order_and_late() {
        let (proxy, mut client) = through_proxy().await;
        echoed(&mut client, b"open").await.unwrap();
        proxy.set(Link::Delayed(Duration::from_millis(50)));
        let start = Instant::now();
        echoed(&mut client, b"late").await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_cut_resets_and_a_new_connection_is_reset_too() {
        let (proxy, mut client) = through_proxy().await;
        echoed(&mut client, b"open").await.unwrap();
        proxy.set(Link::Cut);
        let error = client.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut second = TcpStream::connect(proxy.listen).await.unwrap();
        assert!(echoed(&mut second, b"none").await.is_err());
        proxy.set(Link::Open);
        let mut third = TcpStream::connect(proxy.listen).await.unwrap();
        echoed(&mut third, b"back").await.unwrap();
    }

    #[tokio::test]
    async fn what_a_silent_link_held_arrives_when_it_opens() {
        let (proxy, mut client) = through_proxy().await;
        echoed(&mut client, b"open").await.unwrap();
        for silence in [Link::Silent, Link::Deaf] {
            proxy.set(silence);
            client.write_all(b"held").await.unwrap();
            let mut back = [0; 4];
            let early = tokio::time::timeout(Duration::from_millis(50), client.read_exact(&mut back)).await;
            assert!(early.is_err(), "{silence:?} let an answer through");
            proxy.set(Link::Open);
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"held");
        }
    }
}
