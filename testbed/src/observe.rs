//! What the parts say, and waiting until they say what is expected.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::http::{self, Answer};
use crate::node::Node;

/// Often enough that a measured time is good to some milliseconds, seldom enough for two cores.
const POLL: Duration = Duration::from_millis(15);

/// One node's `ips.json`.
#[derive(Clone, Debug)]
pub struct List {
    pub bytes: Vec<u8>,
    pub says: ListFile,
}

/// What `ips.json` says; fields a test does not ask for are left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListFile {
    pub schema: u64,
    pub fleet: String,
    /// Unknown until the registry's life is.
    pub registry: Option<String>,
    pub revision: i64,
    pub digest: String,
    pub count: usize,
    pub ips: Vec<Ipv4Addr>,
    pub nodes: Vec<ListNode>,
    pub stale_since: Option<String>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ListNode {
    /// The instance, where the file says it.
    #[serde(default)]
    pub id: String,
    pub name: String,
    pub ip: Ipv4Addr,
    pub state: String,
    #[serde(default)]
    pub leader: bool,
}

impl List {
    /// # Errors
    /// When it is no list: each read of it must parse.
    pub fn parse(bytes: Vec<u8>) -> anyhow::Result<Self> {
        let says = serde_json::from_slice(&bytes)
            .with_context(|| format!("reading the list {:?}", String::from_utf8_lossy(&bytes)))?;
        Ok(Self { bytes, says })
    }
}

/// Asks `look` again and again until it succeeds.
///
/// # Errors
/// What `look` said last, when it has not succeeded within `patience`.
pub async fn eventually<T>(
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    let mut last = None;
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(difference)) => last = Some(difference),
            // The look that was cut off says less than the one before.
            Err(_) => last = last.or_else(|| Some(anyhow::anyhow!("the first look took too long"))),
        }
        if Instant::now() + POLL > deadline {
            let last = last.unwrap_or_else(|| anyhow::anyhow!("never looked"));
            return Err(last.context(format!("not within {patience:?}: {what}")));
        }
        sleep(POLL).await;
    }
}

/// Reads the lists of some nodes from disk every other millisecond, on a thread of its own.
#[derive(Debug)]
pub struct Sampler {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Seen>>,
}

/// What a sampler saw of one node's list.
#[derive(Clone, Debug)]
pub struct Seen {
    pub node: String,
    /// Fewest and most addresses in one list.
    pub fewest: usize,
    pub most: usize,
    /// Different lists, apart from stale marks coming and going; 1 when nothing changed.
    pub contents: usize,
    /// Lists that did not parse or were gone, which must be none.
    pub broken: Vec<String>,
    /// Whether a stale mark was seen.
    pub stale: bool,
}

impl Sampler {
    pub fn start<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let of = |node: &Node| (node.name.clone(), node.files.join("ips.json"));
        let files: Vec<(String, PathBuf)> = nodes.into_iter().map(of).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut seen: Vec<_> =
                    files.iter().map(|(name, _)| (Seen::new(name), None, Vec::new())).collect();
                while !ended.load(Ordering::Relaxed) {
                    for ((_, path), (seen, last, before)) in files.iter().zip(&mut seen) {
                        seen.look(path, last, before);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                seen.into_iter().map(|(seen, ..)| seen).collect()
            }
        });
        Self { ended, thread }
    }

    /// Ends the sampling and returns what was seen, a row a node.
    ///
    /// # Panics
    /// When the sampling thread did.
    pub fn finish(self) -> Vec<Seen> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("the sampling thread ends by itself")
    }

    /// Ends the sampling; every node served one list throughout, and never called it stale.
    ///
    /// # Errors
    /// What a node served instead.
    pub fn saw_one_list(self) -> anyhow::Result<()> {
        for seen in self.finish() {
            ensure!(seen.contents == 1 && !seen.stale && seen.broken.is_empty(), "{seen:?}");
        }
        Ok(())
    }
}

/// What was meant to be under load was under some, however slow the machine is.
const LEAST: usize = 20;

/// One client that asks through Envoy again and again, a new connection each time.
#[derive(Debug)]
pub struct Traffic {
    ended: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Answers>,
}

/// What such a client got.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub asked: usize,
    /// Everything but a 200 with a list.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

impl Traffic {
    /// Asks each 5 ms at most, and [`LEAST`] times at least.
    pub fn start(edge: SocketAddrV4) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let ended = Arc::clone(&ended);
            async move {
                let mut answers = Answers::default();
                while !ended.load(Ordering::Relaxed) || answers.asked < LEAST {
                    let start = Instant::now();
                    let answer = http::get(edge, "/ips.json", Duration::from_secs(6)).await;
                    answers.note(answer, start.elapsed());
                    sleep(Duration::from_millis(5)).await;
                }
                answers
            }
        });
        Self { ended, task }
    }

    /// # Panics
    /// When the client did.
    pub async fn finish(self) -> Answers {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.expect("the client ends by itself")
    }
}

impl Answers {
    fn note(&mut self, answer: anyhow::Result<Answer>, took: Duration) {
        self.asked += 1;
        self.slowest = self.slowest.max(took);
        match answer {
            Ok(answer) if answer.status == 200 && List::parse(answer.body.clone()).is_ok() => {}
            Ok(answer) => self.failures.push(format!("status {}", answer.status)),
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }
}

impl Seen {
    fn new(node: &str) -> Self {
        let node = node.to_owned();
        Self { node, fewest: usize::MAX, most: 0, contents: 0, broken: Vec::new(), stale: false }
    }

    fn look(&mut self, path: &std::path::Path, last: &mut Option<ListFile>, before: &mut Vec<u8>) {
        let list = match std::fs::read(path).map_err(Into::into).and_then(|bytes| {
            if bytes == *before {
                return Ok(None);
            }
            before.clone_from(&bytes);
            List::parse(bytes).map(Some)
        }) {
            Ok(Some(list)) => list.says,
            Ok(None) => return,
            Err(error) => return self.broken.push(format!("{error:#}")),
        };
        self.fewest = self.fewest.min(list.ips.len());
        self.most = self.most.max(list.ips.len());
        self.stale |= list.stale_since.is_some();
        let plain = ListFile { stale_since: None, ..list };
        if last.as_ref() != Some(&plain) {
            self.contents += 1;
            *last = Some(plain);
        }
    }
}
