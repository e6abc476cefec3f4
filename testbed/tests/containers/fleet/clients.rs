//! Clients that ask all the time while something happens, and what they lost by it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of one client.
const PACE: Duration = Duration::from_millis(10);

/// What a client does when its connection ends under a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Counts it as lost: nothing that is planned may do this to anybody.
    AskOnce,
    /// Asks once more, as browsers and HTTP libraries do.
    AskAgain,
}

/// Two clients: one with a connection for each request, one that keeps its own for as long as it may.
pub struct Clients {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    lost: Vec<String>,
}

impl Clients {
    pub fn start(edge: SocketAddr, manners: Manners) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let threads = [false, true].map(|keeps| {
            let enough = enough.clone();
            thread::spawn(move || {
                let mut tally = Tally::default();
                let mut kept = None;
                while !enough.load(Ordering::Relaxed) {
                    let first = one_request(edge, &mut kept, keeps);
                    let outcome = match (first, manners) {
                        (Err(_), Manners::AskAgain) => one_request(edge, &mut kept, keeps),
                        (outcome, _) => outcome,
                    };
                    match outcome {
                        Ok(()) => tally.answered += 1,
                        Err(error) => {
                            tally.lost.push(format!("keeps {keeps}, after {}: {error}", tally.answered));
                        }
                    }
                    thread::sleep(PACE);
                }
                tally
            })
        });
        Self { enough, threads: threads.into() }
    }

    /// Ends them.
    ///
    /// # Panics
    /// When a request was lost, or none was answered.
    pub fn lost_nothing(self, during: &str) {
        self.enough.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let tally = thread.join().expect("a client ended by itself");
            assert!(tally.lost.is_empty(), "{during}: lost {} requests: {:?}", tally.lost.len(), tally.lost);
            assert!(tally.answered > 0, "{during}: no request was answered");
        }
    }
}

/// Whole or an error; `kept` is left with a connection only when it may be used again.
fn one_request(edge: SocketAddr, kept: &mut Option<TcpStream>, keeps: bool) -> Result<(), String> {
    let exchange = |stream: &mut TcpStream| -> std::io::Result<(String, bool)> {
        let close = if keeps { "" } else { "Connection: close\r\n" };
        write!(stream, "GET /ips.json HTTP/1.1\r\nHost: fleet\r\n{close}\r\n")?;
        let mut answer = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while answer.read_line(&mut head)? > 2 {}
        let mut lasts = keeps;
        for line in head.to_ascii_lowercase().lines() {
            length =
                line.strip_prefix("content-length: ").and_then(|text| text.parse().ok()).unwrap_or(length);
            lasts &= line != "connection: close";
        }
        answer.read_exact(&mut vec![0; length])?;
        Ok((head.lines().next().unwrap_or_default().to_owned(), lasts))
    };
    let fresh = || -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&edge, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => fresh().map_err(|error| format!("connect: {error}"))?,
    };
    match exchange(&mut stream) {
        Ok((status, lasts)) if status.contains(" 200 ") => {
            *kept = lasts.then_some(stream);
            Ok(())
        }
        Ok((status, _)) => Err(format!("{status:?}")),
        Err(error) => Err(error.to_string()),
    }
}
