//! Large answers to clients that are slow, pause, come back for the rest, or have gone: whoever reads gets all of it, and
//! only who takes nothing for two minutes is given up. Over HTTP/1.1 and HTTP/2.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use h2::RecvStream;
use h2::client::SendRequest;
use hyper::Request;
use hyper::body::Bytes;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Larger than all buffers on the way together, so that it is under way until it is read.
const LARGE: usize = 24 << 20;
/// Longest pause that is promised to be forgiven.
const PROMISED: Duration = Duration::from_secs(120);
/// Above what Envoy allows; what it sees of a client is seconds old.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(170);
/// For what is read as fast as it comes.
const AMPLE: Duration = Duration::from_secs(60);
/// A client with little memory: what it has not read yet is Envoy's and the kernel's.
const SMALL_BUFFER: u32 = 16 << 10;
/// Read in small pieces, at 50 kB/s.
const PIECE: usize = 5_000;
const PIECE_EVERY: Duration = Duration::from_millis(100);
/// How long it is read so slowly; afterwards the rest is read at once.
const SLOWLY: Duration = Duration::from_secs(90);

/// An answer of which only the beginning has been read.
enum Download {
    Http1 { stream: TcpStream, left: usize },
    Http2 { body: RecvStream, left: usize, _sender: SendRequest<Bytes> },
}

impl Download {
    async fn http1(edge: SocketAddrV4, from: usize) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(SMALL_BUFFER)?;
        let mut stream = socket.connect(edge.into()).await?;
        let request =
            format!("GET /large HTTP/1.1\r\nHost: f\r\nRange: bytes={from}-\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        ensure!(head.starts_with(b"HTTP/1.1 206 "), "{}", String::from_utf8_lossy(&head));
        Ok(Self::Http1 { stream, left: LARGE - from })
    }

    /// `window`: of the stream, in bytes. A small one stops Envoy by HTTP/2's own means, a large one by TCP's.
    async fn http2(edge: SocketAddrV4, from: usize, window: u32) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(edge).await?;
        let mut client = h2::client::Builder::new();
        client.initial_window_size(window).initial_connection_window_size(window.max(1 << 20));
        let (sender, connection) = client.handshake::<_, Bytes>(stream).await?;
        tokio::spawn(connection);
        let mut sender = sender.ready().await?;
        let request = Request::get("http://f/large").header("range", format!("bytes={from}-")).body(())?;
        let (answer, _) = sender.send_request(request, true)?;
        let answer = answer.await?;
        ensure!(answer.status() == 206, "{answer:?}");
        Ok(Self::Http2 { body: answer.into_body(), left: LARGE - from, _sender: sender })
    }

    /// Reads at most so much more; 0 when all has been read.
    async fn read(&mut self, most: usize) -> anyhow::Result<usize> {
        match self {
            Self::Http1 { stream, left } => {
                let mut piece = vec![0; most.min(*left)];
                let length = stream.read(&mut piece).await?;
                ensure!(length > 0 || *left == 0, "ended, and {left} bytes are missing");
                *left -= length;
                Ok(length)
            }
            Self::Http2 { body, left, .. } => {
                let Some(piece) = body.data().await else {
                    ensure!(*left == 0, "ended, and {left} bytes are missing");
                    return Ok(0);
                };
                let length = piece?.len();
                body.flow_control().release_capacity(length)?;
                *left -= length;
                Ok(length)
            }
        }
    }

    async fn finish(mut self) -> anyhow::Result<()> {
        let all = async {
            while self.read(1 << 20).await? > 0 {}
            anyhow::Ok(())
        };
        timeout(AMPLE, all).await.context("the rest did not come in time")?
    }

    /// Everything but the end, at once.
    async fn all_but(&mut self, rest: usize) -> anyhow::Result<()> {
        loop {
            let (Self::Http1 { left, .. } | Self::Http2 { left, .. }) = self;
            let before = left.saturating_sub(rest);
            if before == 0 || self.read(before.min(64 << 10)).await? == 0 {
                return Ok(());
            }
        }
    }
}

async fn after_a_pause(mut download: Download, pause: Duration) -> anyhow::Result<()> {
    download.read(1).await?;
    sleep(pause).await;
    download.finish().await
}

async fn slowly(mut download: Download) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < SLOWLY {
        let length = download.read(PIECE).await?;
        sleep(PIECE_EVERY * u32::try_from(length.div_ceil(PIECE).max(1))?).await;
    }
    download.finish().await
}

/// The tail is what Envoy holds when it has already closed the connection in its own mind.
async fn slow_at_the_end(mut download: Download, rest: usize, pause: Duration) -> anyhow::Result<()> {
    download.all_but(rest).await?;
    sleep(pause).await;
    while download.read(PIECE).await? > 0 {
        sleep(PIECE_EVERY).await;
    }
    Ok(())
}

/// Broken off in the middle and resumed where it ended.
async fn resumed(mut download: Download, rest: Download) -> anyhow::Result<()> {
    download.all_but(LARGE / 2).await?;
    drop(download);
    rest.finish().await
}

/// One over each protocol that reads nothing any more; the counter that says who was given up.
async fn gone(bed: &Testbed) -> anyhow::Result<()> {
    let (envoy, edge) = (bed.envoy(), bed.envoy().edge);
    let mut gone = vec![Download::http1(edge, 0).await?, Download::http2(edge, 0, 64 << 10).await?];
    let began = Instant::now();
    let given_up = async || {
        let stats = envoy.stats("^http.edge.downstream_rq_idle_timeout$").await?;
        anyhow::Ok(stats.values().sum::<u64>())
    };
    // No earlier: asked until the promise is over.
    while began.elapsed() < PROMISED {
        ensure!(given_up().await? == 0, "given up after {:?}", began.elapsed());
        sleep(Duration::from_secs(1)).await;
    }
    eventually(GIVEN_UP_WITHIN - PROMISED, "both are given up", async || {
        ensure!(given_up().await? == gone.len() as u64, "{} of them", given_up().await?);
        Ok(())
    })
    .await?;
    for download in &mut gone {
        // What was on its way still comes, and then the end.
        while let Ok(length) = timeout(AMPLE, download.read(1 << 20)).await.context("still open")? {
            if length == 0 {
                bail!("it was whole");
            }
        }
    }
    Ok(())
}

async fn named(name: &str, what: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    what.await.with_context(|| format!("HTTP/{name}"))
}

/// All at once, because what takes the time is waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_gets_all_of_it_and_who_has_gone_is_given_up() -> anyhow::Result<()> {
    let bed = Testbed::builder().etcd(1).nodes(2).site_file("large", LARGE);
    bed.run(async |bed| {
        let edge = bed.envoy().edge;
        let (minute, nearly) = (Duration::from_secs(60), PROMISED - Duration::from_secs(3));
        // Below what Envoy gives a connection that it closes after its answer.
        let tail = Duration::from_secs(2);
        let (small, large) = (64 << 10, 8 << 20);
        let http1 = |from| Download::http1(edge, from);
        let http2 = |from, window| Download::http2(edge, from, window);
        tokio::try_join!(
            named("1.1 and 2, gone", gone(bed)),
            named("1.1, a minute", after_a_pause(http1(0).await?, minute)),
            named("1.1, nearly two", after_a_pause(http1(0).await?, nearly)),
            named("1.1, slowly", slowly(http1(0).await?)),
            named("1.1, slow at the end", slow_at_the_end(http1(0).await?, 100_000, tail)),
            named("1.1, resumed", resumed(http1(0).await?, http1(LARGE / 2).await?)),
            named("2, a minute", after_a_pause(http2(0, small).await?, minute)),
            named("2, nearly two", after_a_pause(http2(0, small).await?, nearly)),
            named("2, nearly two, by TCP", after_a_pause(http2(0, large).await?, nearly)),
            named("2, slowly", slowly(http2(0, small).await?)),
            named("2, slow at the end", slow_at_the_end(http2(0, small).await?, 100_000, minute)),
            named("2, resumed", resumed(http2(0, small).await?, http2(LARGE / 2, small).await?)),
        )?;
        Ok(())
    })
    .await
}
