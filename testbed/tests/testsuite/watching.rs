//! `muster status --watch` again and again: over itself on a terminal, one after the other in a pipe.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::programs::Programs;
use testbed::{Testbed, eventually};

const SOON: Duration = Duration::from_secs(30);
/// Home, and nothing below it any more.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";
const FIRST_WORDS: &str = "fleet muster: ";

/// A command that runs until it is interrupted, and what it has said.
struct Watching {
    child: Child,
    pieces: Receiver<String>,
    said: String,
}

impl Watching {
    fn start(
        bed: &Testbed,
        output: Stdio,
        reader: impl FnOnce(&mut Child) -> Option<File>,
    ) -> anyhow::Result<Self> {
        let etcd = format!("http://{}", bed.etcd.address(1));
        let mut child = Command::new(Programs::find()?.muster)
            .args(["status", "--watch", "1", "--allow", "127.0.0.0/8", "--etcd", &etcd])
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()?;
        let mut from = reader(&mut child).context("its output")?;
        let (piece, pieces) = channel();
        // It ends with the command, by the end of a pipe or the error of a terminal that nobody holds open.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if piece.send(text).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, pieces, said: String::new() })
    }

    /// Until it has begun anew so many times.
    fn rounds(&mut self, wanted: usize) -> anyhow::Result<()> {
        self.until("too few rounds", |said| said.matches(FIRST_WORDS).count() >= wanted)
    }

    fn until(&mut self, otherwise: &str, enough: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + SOON;
        while !enough(&self.said) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(piece) = self.pieces.recv_timeout(left) else { bail!("{otherwise}: {:?}", self.said) };
            self.said += &piece;
        }
        Ok(())
    }

    /// What a shell takes for its exit code.
    async fn interrupt(&mut self) -> anyhow::Result<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let child = &mut self.child;
        let status =
            eventually(SOON, "the command has ended", async || child.try_wait()?.context("it runs")).await?;
        status.code().or_else(|| Some(128 + status.signal()?)).context("an exit code")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_drawn_over_and_a_pipe_is_added_to() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(1)
        .run(async |bed| {
            let pty = openpty(None, None)?;
            // The slave is the command's alone, so that the terminal ends with it.
            let mut terminal = Watching::start(bed, pty.slave.into(), |_| Some(pty.master.into()))?;
            terminal.rounds(3)?;
            ensure!(terminal.interrupt().await? == 130);
            let rounds: Vec<&str> = terminal.said.split(REDRAW).collect();
            ensure!(rounds.len() >= 4 && rounds[0].is_empty(), "{:?}", terminal.said);
            for round in &rounds[1..=3] {
                ensure!(round.starts_with(FIRST_WORDS), "{round:?}");
                ensure!(round.matches(FIRST_WORDS).count() <= 1, "{round:?}");
            }

            let output =
                |child: &mut Child| Some(File::from(std::os::fd::OwnedFd::from(child.stdout.take()?)));
            let mut pipe = Watching::start(bed, Stdio::piped(), output)?;
            pipe.rounds(3)?;
            ensure!(pipe.interrupt().await? == 130);
            ensure!(!pipe.said.contains('\u{1b}'), "{:?}", pipe.said);
            // Whole tables, a line between them.
            let tables: Vec<&str> = pipe.said.split("\n\n").collect();
            ensure!(tables.len() >= 3, "{:?}", pipe.said);
            for table in &tables[..2] {
                ensure!(table.starts_with(FIRST_WORDS) && table.contains("node1"), "{table:?}");
            }
            Ok(())
        })
        .await
}

/// What a terminal shows last.
fn shown(said: &str) -> &str {
    said.rsplit(REDRAW).next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_goes_when_nobody_vouches_for_it() -> anyhow::Result<()> {
    Testbed::builder()
        .etcd(1)
        .nodes(1)
        .run(async |bed| {
            let pty = openpty(None, None)?;
            let mut terminal = Watching::start(bed, pty.slave.into(), |_| Some(pty.master.into()))?;
            terminal.until("no table", |said| shown(said).contains("node1"))?;
            bed.etcd.kill_all().await?;
            let gone = |said: &str| shown(said).contains("does not answer") && shown(said).ends_with('\n');
            terminal.until("the table stays", gone)?;
            let screen = shown(&terminal.said);
            ensure!(screen.starts_with(FIRST_WORDS), "{screen:?}");
            ensure!(!screen.contains("node1") && !screen.contains("NODE"), "{screen:?}");
            bed.etcd.start_all()?;
            bed.etcd.healthy(SOON).await?;
            terminal.until("no table again", |said| shown(said).contains("node1"))
        })
        .await
}
