//! Frames that have no use but to cost. Each flood is cut off, and nobody beside it notices.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, ensure};
use testbed::observe::Traffic;
use testbed::{Testbed, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, get, literal,
};

/// How long each goes on, over one connection after the other.
const LENGTH: Duration = Duration::from_secs(2);
/// More than one connection is let send.
const MOST_FRAMES: u32 = 100_000;
const FRAMES_A_WRITE: u32 = 400;
/// Bound of one flood; they end within a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing that is read at all is left unread for so long.
const UNREAD: Duration = Duration::from_secs(3);
/// Streams that are never read: above Envoy's patience with them of 125 s.
const UNREAD_PATIENCE: Duration = Duration::from_secs(200);

/// A client of HTTP/2 that misbehaves.
struct Flood {
    name: &'static str,
    /// What Envoy counts when it cuts one off for this and nothing else.
    counted: &'static str,
    /// Sent first, after preface and settings.
    opening: Vec<u8>,
    /// The frames of one round, counted from 0.
    round: fn(u32) -> Vec<u8>,
}

/// Clients' streams have odd numbers.
fn stream(round: u32) -> u32 {
    2 * round + 1
}

fn request(round: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream(round), &get())
}

fn floods() -> [Flood; 8] {
    let none = Vec::new;
    let open = || frame(HEADERS, END_HEADERS, 1, &get());
    [
        Flood {
            name: "rapid reset",
            counted: "^http.edge.downstream_rq_too_many_premature_resets$",
            opening: none(),
            round: |round| {
                [request(round), frame(RST_STREAM, 0, stream(round), &8_u32.to_be_bytes())].concat()
            },
        },
        Flood {
            name: "CONTINUATION without end",
            counted: "^http2.header_overflow$",
            opening: frame(HEADERS, END_STREAM, 1, &get()),
            round: |_| frame(CONTINUATION, 0, 1, &literal(b"x-more", &[b'a'; 100])),
        },
        Flood {
            name: "headers of no length",
            counted: "^http2.rx_messaging_error$",
            opening: none(),
            round: |round| {
                let empty = [get(), literal(b"", b"").repeat(1000)].concat();
                frame(HEADERS, END_HEADERS | END_STREAM, stream(round), &empty)
            },
        },
        Flood {
            name: "SETTINGS",
            counted: "^http2.outbound_(control_)?flood$",
            opening: none(),
            round: |_| frame(SETTINGS, 0, 0, &[]),
        },
        Flood {
            name: "PING",
            counted: "^http2.outbound_(control_)?flood$",
            opening: none(),
            round: |round| frame(PING, 0, 0, &u64::from(round).to_be_bytes()),
        },
        Flood {
            name: "empty DATA",
            counted: "^http2.inbound_empty_frames_flood$",
            opening: open(),
            round: |_| frame(DATA, 0, 1, &[]),
        },
        Flood {
            name: "PRIORITY",
            counted: "^http2.inbound_priority_frames_flood$",
            opening: none(),
            round: |round| frame(PRIORITY, 0, stream(round % 1000), &[0, 0, 0, 0, 1]),
        },
        Flood {
            name: "WINDOW_UPDATE",
            counted: "^http2.inbound_window_update_frames_flood$",
            opening: none(),
            round: |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        },
    ]
}

impl Flood {
    /// How many frames were sent until the connection was closed, not read any more, said to be over, or had enough of
    /// them: whether that was Envoy's cut its counter says.
    async fn pour(&self, edge: SocketAddrV4) -> anyhow::Result<u32> {
        let (mut read, mut write) = TcpStream::connect(edge).await?.into_split();
        let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &self.opening].concat();
        write.write_all(&opening).await?;
        let mut sent = 0;
        let pour = async {
            while sent < MOST_FRAMES {
                let rounds = (sent..sent + FRAMES_A_WRITE).flat_map(self.round).collect::<Vec<u8>>();
                sent += FRAMES_A_WRITE;
                // Closed, or not read any more: Envoy's counter tells later whether that was the cut.
                if !matches!(timeout(UNREAD, write.write_all(&rounds)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        // Of most floods Envoy says that it is over; the connection itself it leaves open for its last words.
        let cut = async {
            let mut seen = Vec::new();
            while !matches!(read.read_buf(&mut seen).await, Ok(0) | Err(_)) {
                while let Some(kind) = take(&mut seen) {
                    if kind == GOAWAY {
                        return;
                    }
                }
            }
        };
        let ended = async {
            tokio::select! {
                () = pour => {}
                () = cut => {}
            }
        };
        let ended = timeout(PATIENCE, ended).await;
        ended.with_context(|| format!("{}: not cut off after {sent} frames", self.name))?;
        Ok(sent)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_are_cut_off_and_nobody_else_notices() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .run(async |bed| {
            let (envoy, edge) = (bed.envoy(), bed.envoy().edge);
            let pid = envoy.pid().context("an Envoy")?;
            for flood in floods() {
                let others = Traffic::start(edge);
                let before: u64 = envoy.stats(flood.counted).await?.values().sum();
                let mut sent = Vec::new();
                let began = Instant::now();
                while began.elapsed() < LENGTH {
                    sent.push(flood.pour(edge).await?);
                }
                let answers = others.finish().await;
                let (asked, slowest) = (answers.asked, answers.slowest);
                let (connections, most) = (sent.len(), sent.iter().max());
                println!(
                    "{:24} {connections} cut off, {most:?} frames; others: {asked}, {slowest:?}",
                    flood.name
                );
                let after: u64 = envoy.stats(flood.counted).await?.values().sum();
                let cut = usize::try_from(after - before)?;
                ensure!(cut >= connections, "{}: {cut} of {connections} were cut off for it", flood.name);
                ensure!(answers.failures.is_empty(), "{}: {answers:?}", flood.name);
            }
            ensure!(envoy.pid() == Some(pid), "Envoy has died");
            eventually(PATIENCE, "no connection is left", async || {
                let active = envoy.stats("^http.edge.downstream_cx_active$").await?;
                ensure!(active.values().sum::<u64>() == 0, "{active:?}");
                Ok(())
            })
            .await
        })
        .await
}

/// A client that asks a hundred times and lets none of the answers through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_given_up() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(2)
        .run(async |bed| {
            let (envoy, edge) = (bed.envoy(), bed.envoy().edge);
            let others = Traffic::start(edge);
            let mut socket = TcpStream::connect(edge).await?;
            // SETTINGS_INITIAL_WINDOW_SIZE (4) is 0.
            let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
            let requests: Vec<u8> = (0..100).flat_map(request).collect();
            socket.write_all(&[PREFACE, &settings, &requests].concat()).await?;
            let ended = timeout(UNREAD_PATIENCE, async {
                let (mut seen, mut reset) = (Vec::new(), 0);
                while reset < 100 {
                    if socket.read_buf(&mut seen).await? == 0 {
                        break;
                    }
                    while let Some(kind) = take(&mut seen) {
                        reset += usize::from(kind == RST_STREAM);
                        if kind == GOAWAY {
                            return anyhow::Ok(reset);
                        }
                    }
                }
                anyhow::Ok(reset)
            });
            ended.await.context("the streams are kept for ever")??;
            eventually(PATIENCE, "no stream is left", async || {
                let active = envoy.stats("^http.edge.downstream_rq_active$").await?;
                // One may be another client's.
                ensure!(active.values().sum::<u64>() <= 1, "{active:?}");
                Ok(())
            })
            .await?;
            let answers = others.finish().await;
            ensure!(answers.failures.is_empty(), "{answers:?}");
            Ok(())
        })
        .await
}

/// The kind of the first whole frame, which is taken off.
fn take(seen: &mut Vec<u8>) -> Option<u8> {
    let [high, middle, low, kind, ..] = *seen.first_chunk::<9>()?;
    let length = 9 + u32::from_be_bytes([0, high, middle, low]) as usize;
    (seen.len() >= length).then(|| {
        seen.drain(..length);
        kind
    })
}
