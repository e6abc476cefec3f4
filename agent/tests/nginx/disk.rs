//! A slow disk delays the requests that read from it, and no others.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster::process::Pid;
use muster::process::probe::probe;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::{major, minor};

use super::part::skip;
use super::{Node, PATIENCE, children_of, poll};

const SIZE: usize = 4 << 20;
/// Slow enough that each read takes seconds, and the file longer than the test.
const BYTES_PER_S: u32 = 32 << 10;

/// A control group whose processes read slowly from the disk that holds a directory.
struct SlowReads(PathBuf);

impl SlowReads {
    /// `None` where this kernel or this user has no such groups.
    fn from(dir: &Path) -> Option<Self> {
        let device = fs::metadata(dir).unwrap().st_dev();
        let device = format!("{}:{}", major(device), minor(device));
        let name = format!("muster-test-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/blkio").join(&name);
        let (group, file, limit) = if fs::create_dir(&first).is_ok() {
            (first, "blkio.throttle.read_bps_device", format!("{device} {BYTES_PER_S}"))
        } else {
            let second = Path::new("/sys/fs/cgroup").join(&name);
            _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+io");
            fs::create_dir(&second).ok()?;
            (second, "io.max", format!("{device} rbps={BYTES_PER_S}"))
        };
        let group = Self(group);
        // Partitions of some kernels are slowed down by their disk's number only, and say so here.
        fs::write(group.0.join(file), limit).ok().map(|()| group)
    }

    fn add(&self, process: Pid) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for SlowReads {
    fn drop(&mut self) {
        let parent = self.0.parent().unwrap().join("cgroup.procs");
        for process in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            _ = fs::write(&parent, process);
        }
        _ = fs::remove_dir(&self.0);
    }
}

/// A thread that waits for a disk, and how often it has run before: the same twice is one wait.
fn waiting(process: Pid) -> Option<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    threads.flatten().find_map(|thread| {
        let turns = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let waits = stat.rsplit_once(") ")?.1.starts_with('D');
        waits.then(|| (thread.file_name().into_string().unwrap(), turns))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_holds_up_nobody_but_who_reads_from_it() {
    // What lies in memory, or on a disk that has no number of its own, cannot be slowed down.
    let found = [env!("CARGO_TARGET_TMPDIR"), "/var/tmp", "/tmp"].into_iter().find_map(|dir| {
        let site = tempfile::tempdir_in(dir).ok()?;
        SlowReads::from(site.path()).map(|slow| (site, slow))
    });
    let Some((site, slow)) = found else {
        return skip("no control group that slows reads down: that needs root and a disk");
    };
    let path = site.path().join("big.bin");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&vec![7; SIZE]).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let Some(node) = Node::start(|nginx, _| nginx.site = Some(site.path().to_owned())).await else { return };
    let worker = children_of(node.pid().unwrap())[0];
    slow.add(worker);

    let mut client = TcpStream::connect(node.nginx.listen).unwrap();
    client.write_all(b"GET /big.bin HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let reader = std::thread::spawn(move || {
        let mut got = 0;
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            got += count;
        }
        got
    });
    poll("an answer during one wait for the disk", async || {
        let before = waiting(worker)?;
        let answer = probe(node.address(), "/healthz", Duration::from_secs(1)).await.ok()?;
        (answer.status == 200 && waiting(worker)? == before).then_some(())
    })
    .await;
    node.stop().await;
    let got = reader.join().unwrap();
    assert!(got < SIZE, "the disk was not slow: {got} bytes in less than {PATIENCE:?}");
}
