//! Nothing outlives its testbed, however that ends.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::eventually;
use testbed::process::Keeper;
use testbed::tree;

const PATIENCE: Duration = Duration::from_secs(10);

fn keeper() -> anyhow::Result<std::sync::Arc<Keeper>> {
    Keeper::start(Path::new(env!("CARGO_BIN_EXE_testbed")))
}

/// A shell with a child in a session of its own, which no signal to a group would reach. Returns all process ids.
async fn family(keeper: &std::sync::Arc<Keeper>) -> anyhow::Result<Vec<i32>> {
    let script = "setsid sleep 1000 & trap '' TERM INT HUP; sleep 1000 & wait";
    let shell = keeper.spawn("shell", Path::new("/bin/sh"), ["-c", script], &[])?;
    let below = eventually(PATIENCE, "two sleeping children", async || {
        let below = tree::descendants(shell.pid);
        let asleep = |pid: &i32| tree::program_name(*pid).as_deref() == Some("sleep");
        ensure!(below.len() == 2 && below.iter().all(asleep), "children {below:?}");
        Ok(below)
    })
    .await?;
    Ok(below.into_iter().chain([shell.pid]).collect())
}

fn alive(pid: i32) -> bool {
    // A zombie has a name and no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test]
async fn the_end_of_a_testbed_ends_every_descendant_and_removes_the_directory() -> anyhow::Result<()> {
    let keeper = keeper()?;
    let pids = family(&keeper).await?;
    let (directory, memory) = (keeper.directory.clone(), keeper.memory.clone());
    ensure!(pids.iter().all(|pid| alive(*pid)), "not all are there to begin with");
    ensure!(directory.is_dir() && memory.is_dir(), "a directory is missing");
    drop(keeper);
    let left: Vec<_> = pids.into_iter().filter(|pid| alive(*pid)).collect();
    ensure!(left.is_empty(), "still there: {left:?}");
    ensure!(
        !directory.exists() && !memory.exists(),
        "{} or {} is still there",
        directory.display(),
        memory.display()
    );
    Ok(())
}

#[tokio::test]
async fn a_killed_keeper_takes_its_children_along() -> anyhow::Result<()> {
    let keeper = keeper()?;
    let sleep = keeper.spawn("sleep", Path::new("/bin/sleep"), ["1000"], &[])?;
    // Not before the program has taken the launcher's place: for a moment it has no command line.
    eventually(PATIENCE, "it sleeps", async || {
        ensure!(tree::program_name(sleep.pid).as_deref() == Some("sleep") && alive(sleep.pid));
        Ok(())
    })
    .await?;
    kill(Pid::from_raw(i32::try_from(keeper.pid())?), Signal::SIGKILL)?;
    eventually(PATIENCE, "the child is gone", async || {
        ensure!(!alive(sleep.pid));
        Ok(())
    })
    .await?;
    // Nobody is left to do it.
    std::fs::remove_dir_all(&keeper.directory)?;
    std::fs::remove_dir_all(&keeper.memory)?;
    Ok(())
}

#[tokio::test]
async fn two_testbeds_have_two_ranges() -> anyhow::Result<()> {
    let (one, other) = (keeper()?, keeper()?);
    ensure!(one.range != other.range, "both have 127.{:?}", one.range);
    Ok(())
}

#[tokio::test]
async fn a_program_is_run_to_its_end_with_input_environment_and_exit_code() -> anyhow::Result<()> {
    let keeper = keeper()?;
    let args = ["-c", "cat; echo $WORD; echo aside >&2; exit 3"];
    let output =
        keeper.run(Path::new("/bin/sh"), args, &[("WORD", "said")], Some(b"read "), PATIENCE).await?;
    assert_eq!(output.exit.code, Some(3));
    assert_eq!(output.stdout, b"read said\n");
    assert_eq!(output.stderr, "aside\n");
    Ok(())
}

#[tokio::test]
async fn a_kept_directory_stays_with_its_logs() -> anyhow::Result<()> {
    let keeper = keeper()?;
    let process = keeper.spawn("echo", Path::new("/bin/echo"), ["hello"], &[])?;
    assert_eq!(process.ended(PATIENCE).await?.code, Some(0));
    keeper.keep_directory();
    let directory = keeper.directory.clone();
    drop((process, keeper));
    let log = std::fs::read_to_string(directory.join("logs/echo.log")).context("the log")?;
    std::fs::remove_dir_all(directory)?;
    assert_eq!(log, "hello\n");
    Ok(())
}

#[tokio::test]
async fn a_missing_program_exits_with_a_word_in_its_log() -> anyhow::Result<()> {
    let keeper = keeper()?;
    let process = keeper.spawn("missing", Path::new("/nowhere/program"), [""; 0], &[])?;
    assert_eq!(process.ended(PATIENCE).await?.code, Some(1));
    let log = std::fs::read_to_string(&process.log)?;
    ensure!(log.contains("starting /nowhere/program"), "{log:?}");
    Ok(())
}

#[tokio::test]
async fn a_range_where_somebody_listens_is_left_alone() -> anyhow::Result<()> {
    // The first choice goes by the keeper's own process id: occupy what the next few keepers would take.
    let first = keeper()?.range;
    let ahead =
        |step: u16| Ipv4Addr::from(0x7f00_0000 | u32::from(u16::from_be_bytes(first) + step) << 8 | 9);
    let taken: Vec<_> = (0..16).filter_map(|step| TcpListener::bind((ahead(step), 0)).ok()).collect();
    for _ in 0..4 {
        let [a, b] = keeper()?.range;
        for listener in &taken {
            let SocketAddr::V4(address) = listener.local_addr()? else { continue };
            ensure!(address.ip().octets()[1..3] != [a, b], "127.{a}.{b} was taken though {address} listens");
        }
    }
    Ok(())
}
