//! The agent as an init: what tini and dumb-init promise, tried on the real binary, off PID 1 and as true PID 1.

mod part;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use muster::process::signals::PASSED_ON;
use muster::process::{Pid, Signal};
use nix::sys::signal::kill;

/// Nothing here takes a second on an idle machine; tests share it with others.
const PATIENCE: Duration = Duration::from_secs(60);

/// The real agent up to the COMMAND, on an address of its own, with a registry that nobody answers for: what PID 1 owes
/// its child must not depend on etcd.
fn agent_command(on_exit: &str) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let address = format!("127.{}.{}.{}", 64 + std::process::id() % 64, n / 250, 1 + n % 250);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("pid1-{n}"));
    let [files, run] = ["www", "run"].map(|name| dir.join(name).to_str().unwrap().to_owned());
    let agent = env!("CARGO_BIN_EXE_muster");
    let flags =
        [agent, "run", "--etcd", "http://127.0.0.1:9", "--listen", &address, "--allow", "127.0.0.0/8"];
    let more = ["--dir", &files, "--run-dir", &run, "--on-exit", on_exit, "--"];
    flags.into_iter().chain(more).map(String::from).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Subreaper,
    Pid1,
}

/// Both modes where a PID namespace can be made.
fn modes() -> &'static [Mode] {
    static ALLOWED: LazyLock<bool> = LazyLock::new(|| {
        let words = ["unshare", "--pid", "--fork", "--mount-proc", "true"].map(String::from);
        output_of(&words).status.success()
    });
    if *ALLOWED {
        &[Mode::Subreaper, Mode::Pid1]
    } else {
        part::skip("as true PID 1: that needs root and `unshare --pid`");
        &[Mode::Subreaper]
    }
}

/// With the dispositions that a shell's foreground job has: `nohup`, a background job and some CI runners start programs
/// with HUP, INT or QUIT ignored, and what is ignored is inherited.
fn command(words: &[String]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=HUP,INT,QUIT,TERM").args(words).env("MUSTER_LOG", "off");
    command
}

/// What the command printed and how it ended, or a panic after the patience.
fn output_of(words: &[String]) -> Output {
    let mut child = command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (lines_of(child.stdout.take().unwrap()), lines_of(child.stderr.take().unwrap()));
    let status = end_of(&mut child, "the end of a command");
    Output { status, stdout: rest_of(&stdout).into_bytes(), stderr: rest_of(&stderr).into_bytes() }
}

/// Killed when it does not end in time, so that the test fails instead of waiting for ever.
fn end_of(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            _ = child.kill();
            panic!("waited in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lines with their ends, read by a thread: a pipe has no deadline of its own.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}

/// All that is still to come until the pipe is closed.
fn rest_of(lines: &Receiver<String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut rest = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => rest.push_str(&line),
            Err(RecvTimeoutError::Disconnected) => return rest,
            Err(RecvTimeoutError::Timeout) => panic!("the output is not over, so far: {rest:?}"),
        }
    }
}

/// A running agent; killed when dropped, with all that it started.
struct Agent {
    outer: Child,
    /// Its pid as seen from here.
    pid: Pid,
    stdout: Receiver<String>,
}

impl Agent {
    fn start(mode: Mode, on_exit: &str, served: &[impl AsRef<OsStr>]) -> Self {
        let mut words: Vec<String> = Vec::new();
        if mode == Mode::Pid1 {
            words.extend(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"].map(String::from));
        }
        words.extend(agent_command(on_exit));
        let mut outer =
            command(&words).args(served).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = lines_of(outer.stdout.take().unwrap());
        let mut pid = outer.id() as i32;
        if mode == Mode::Pid1 {
            // It may already have come and gone; whoever needs the pid runs a command that stays.
            let inner =
                || children_of(outer.id() as i32).first().copied().or_else(|| has_ended(pid).then_some(0));
            pid = poll("the agent in its namespace", inner);
        }
        Self { outer, pid: Pid::from_raw(pid), stdout }
    }

    fn shell(mode: Mode, script: &str) -> Self {
        Self::start(mode, "exit", &["sh", "-c", script])
    }

    /// The next line that starts with `start`, without it.
    fn line(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(start) {
                        return rest.trim_end().to_owned();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => panic!("output ended before {start:?}"),
                Err(RecvTimeoutError::Timeout) => panic!("waited in vain for a line {start:?}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        end_of(&mut self.outer, "the agent's end")
    }

    fn code(&mut self) -> i32 {
        let status = self.end();
        status.code().unwrap_or_else(|| panic!("the agent itself was killed: {status}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Off PID 1 its guard takes the children along, as PID 1 the kernel does.
        if matches!(self.outer.try_wait(), Ok(None)) {
            _ = kill(self.pid, Signal::SIGKILL);
            // With --kill-child this one takes the namespace along, should the pid above be stale.
            _ = self.outer.kill();
            _ = self.outer.wait();
        }
    }
}

fn poll<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// State letter and parent from /proc/PID/stat.
fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn has_ended(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z' || state == 'X')
}

fn children_of(parent: i32) -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// Processes whose command line holds `mark`.
fn marked(mark: &str) -> BTreeSet<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let own = std::process::id() as i32;
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != own && String::from_utf8_lossy(&line).contains(mark)
    })
    .collect()
}

/// A word for a command line that no other process has.
fn mark() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("muster-mark-{}-{count}", std::process::id())
}

/// The COMMAND that prints each signal it gets: the test below, run from this same file.
fn print_signals_command() -> [String; 5] {
    let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    [own, "print_signals".into(), "--exact".into(), "--ignored".into(), "--nocapture".into()]
}

#[test]
#[ignore = "not a test: the others run it as a COMMAND"]
fn print_signals() {
    let numbers = PASSED_ON.iter().map(|signal| *signal as i32);
    let mut signals = signal_hook::iterator::Signals::new(numbers).unwrap();
    println!("\nready");
    for number in signals.forever() {
        println!("got {number}");
    }
}

#[test]
fn every_exit_code_comes_through() {
    for mode in modes() {
        for code in 0..=255 {
            assert_eq!(Agent::shell(*mode, &format!("exit {code}")).code(), code, "{mode:?}");
        }
    }
}

#[test]
fn every_deadly_signal_is_128_and_its_number() {
    const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
    for mode in modes() {
        for number in (1..=31).chain(34..=64).filter(|number| !HARMLESS.contains(number)) {
            let script = format!("ulimit -c 0; kill -{number} $$; exit 1");
            assert_eq!(Agent::shell(*mode, &script).code(), 128 + number, "{mode:?}");
        }
    }
}

#[test]
fn every_signal_reaches_the_child() {
    let leaving = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
    for mode in modes() {
        let agent = Agent::start(*mode, "exit", &print_signals_command());
        agent.line("ready");
        for signal in PASSED_ON.into_iter().filter(|signal| !leaving.contains(signal)) {
            agent.signal(signal);
            assert_eq!(agent.line("got "), (signal as i32).to_string(), "{mode:?}");
        }
        // CONT comes with every request to stop, for a child that is stopped.
        for signal in leaving {
            let agent = Agent::start(*mode, "exit", &print_signals_command());
            agent.line("ready");
            agent.signal(signal);
            let got = BTreeSet::from([agent.line("got "), agent.line("got ")]);
            assert_eq!(got, BTreeSet::from([(signal as i32).to_string(), "18".into()]), "{mode:?}");
        }
    }
}

#[test]
fn a_stop_ends_a_stopped_child() {
    for mode in modes() {
        let mut agent = Agent::shell(*mode, "echo ready; kill -STOP $$; exit 1");
        agent.line("ready");
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.code(), 128 + 15, "{mode:?}");
    }
}

#[test]
fn a_storm_of_orphans_is_reaped() {
    const COUNT: usize = 500;
    let script = format!(
        "exec 3<&0; n=0; while [ $n -lt {COUNT} ]; do (cat <&3 >/dev/null &); n=$((n+1)); done; \
         echo ready; exec 3<&- <&-; while :; do sleep 1000; done"
    );
    for mode in modes() {
        let mut agent = Agent::shell(*mode, &script);
        agent.line("ready");
        let orphans = || children_of(agent.pid.as_raw()).len();
        poll("all orphans", || (orphans() >= COUNT).then_some(()));
        // All of them end at once.
        drop(agent.outer.stdin.take());
        poll("all reaped", || {
            // The shell stays, and off PID 1 the guard.
            let left = children_of(agent.pid.as_raw());
            (left.len() <= 2 && left.into_iter().all(|pid| !has_ended(pid))).then_some(())
        });
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.code(), 128 + 15, "{mode:?}");
    }
}

#[test]
fn nothing_of_the_group_outlives_the_child() {
    for mode in modes() {
        let mark = mark();
        // One of them ignores what it can, one is stopped.
        let script = format!(
            "sh -c 'trap \"\" TERM INT HUP; echo ready; while :; do sleep 1; done' {mark} & \
             sh -c 'kill -STOP $$; :' {mark} & read x; exit 3"
        );
        let mut agent = Agent::shell(*mode, &script);
        agent.line("ready");
        assert!(!marked(&mark).is_empty());
        agent.outer.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(agent.code(), 3);
        // At once, unless the machine is so busy that the agent meets its bound: then the guard has the last word.
        poll("an empty group", || marked(&mark).is_empty().then_some(()));
    }
}

#[test]
fn the_child_is_born_with_a_clean_slate() {
    for mode in modes() {
        let mut words = vec![String::from("--ignore-signal=HUP"), "--block-signal=WINCH".into()];
        if *mode == Mode::Pid1 {
            words.extend(["unshare", "--pid", "--fork", "--mount-proc"].map(String::from));
        }
        words.extend(agent_command("exit"));
        // Not by way of a shell: dash empties the mask itself.
        words.extend(["cat", "/proc/self/status"].map(String::from));
        words.insert(0, "env".into());
        let text = String::from_utf8(output_of(&words).stdout).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
        };
        // WINCH was blocked before the agent came; nothing is ignored, though HUP and in every Rust program PIPE were.
        assert_eq!(field("SigBlk:"), "0000000008000000", "{mode:?}");
        for name in ["SigIgn:", "SigCgt:", "SigPnd:"] {
            // The C libraries keep 32 to 34 for themselves and let nobody touch them.
            let signals = u64::from_str_radix(&field(name), 16).unwrap() & !(0b111 << 31);
            assert_eq!(signals, 0, "{mode:?} {name}");
        }
        assert_eq!(field("NSpgid:"), field("NSpid:"), "a process group of its own");
    }
}

#[test]
fn a_command_is_told_its_instance() {
    let mut words = agent_command("exit");
    words.extend(["sh", "-c", "printf %s \"$MUSTER_INSTANCE\""].map(String::from));
    let instance = String::from_utf8(output_of(&words).stdout).unwrap();
    assert!(instance.len() == 16 && instance.bytes().all(|byte| byte.is_ascii_hexdigit()), "{instance:?}");
}

/// Whoever pipes a COMMAND's output gets that and nothing else, and one that ends as it should is no error.
#[test]
fn stdout_is_the_commands_alone() {
    let mut words: Vec<String> = ["MUSTER_LOG=info", "MUSTER_LOG_FORMAT=json"].map(String::from).into();
    words.extend(agent_command("exit"));
    words.extend(["sh", "-c", "echo said; echo to stderr >&2"].map(String::from));
    let Output { status, stdout, stderr } = output_of(&words);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), String::from_utf8(stdout).unwrap().as_str()), (Some(0), "said\n"), "{stderr}");
    assert!(stderr.contains("to stderr") && stderr.contains("served process has finished"), "{stderr}");
    assert!(!stderr.contains("\"level\":\"error\""), "{stderr}");
}

#[test]
fn what_cannot_run_is_126_or_127() {
    let dir = tempfile::tempdir().unwrap();
    let plain: PathBuf = dir.path().join("plain");
    fs::write(&plain, "echo never").unwrap();
    for mode in modes() {
        for (command, code) in [
            ("muster-no-such-program", 127),
            ("/muster/no/such/program", 127),
            (plain.to_str().unwrap(), 126),
            (dir.path().to_str().unwrap(), 126),
        ] {
            for on_exit in ["exit", "restart"] {
                assert_eq!(Agent::start(*mode, on_exit, &[command]).code(), code, "{mode:?} {command}");
            }
        }
    }
}

#[test]
fn a_second_term_does_not_wait_for_the_graceful_bound() {
    for mode in modes() {
        let mut agent = Agent::start(*mode, "exit", &print_signals_command());
        agent.line("ready");
        agent.signal(Signal::SIGTERM);
        agent.line("got 15");
        let start = Instant::now();
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.code(), 128 + 9, "{mode:?}");
        assert!(start.elapsed() < Duration::from_secs(15), "killed only at the graceful bound");
    }
}

#[test]
fn a_signal_during_the_start_leaves_nothing_behind() {
    for mode in modes() {
        for step in 0..40 {
            let mark = mark();
            let mut agent = Agent::start(*mode, "exit", &["sh", "-c", "read x; :", &mark]);
            // Not waiting for anything: this hits another moment of the start each time.
            std::thread::sleep(Duration::from_micros(250 * step));
            if agent.pid.as_raw() > 0 {
                _ = kill(agent.pid, Signal::SIGTERM);
            }
            // As PID 1 a signal before its handlers are there is the kernel's to drop.
            drop(agent.outer.stdin.take());
            let status = agent.end();
            let fine = status.signal() == Some(15) || matches!(status.code(), Some(143 | 0 | 1));
            assert!(fine, "{mode:?} {status}");
            poll("nothing left", || marked(&mark).is_empty().then_some(()));
        }
    }
}

#[test]
fn a_killed_agent_takes_the_whole_group_with_it() {
    for mode in modes() {
        let mark = mark();
        let script =
            format!("sh -c 'echo ready; while :; do sleep 1; done' {mark} & while :; do sleep 1; done");
        let mut agent = Agent::start(*mode, "exit", &["sh", "-c", &script, &mark]);
        agent.line("ready");
        assert_eq!(marked(&mark).into_iter().filter(|pid| *pid != agent.outer.id() as i32).count().min(2), 2);
        agent.signal(Signal::SIGKILL);
        agent.end();
        poll("nothing left", || marked(&mark).is_empty().then_some(()));
        rest_of(&agent.stdout);
    }
}

#[test]
fn on_exit_restart_starts_again_until_told_to_stop() {
    for mode in modes() {
        let mut agent = Agent::start(*mode, "restart", &["sh", "-c", "echo run $$; exit 7"]);
        let runs: BTreeSet<_> = (0..4).map(|_| agent.line("run ")).collect();
        assert_eq!(runs.len(), 4, "{mode:?}: a new process each time");
        agent.signal(Signal::SIGTERM);
        agent.end();
    }
}

#[test]
fn a_command_has_the_terminal() {
    let agent = agent_command("exit").join(" ");
    for (typed, answer, code) in [(&b"hello\n"[..], "got hello", 5), (b"\x03", "ready", 130)] {
        let line = format!("exec {agent} sh -c 'echo ready; read x; echo got $x; exit 5'");
        let words = ["script", "--quiet", "--return", "--command", &line, "/dev/null"].map(String::from);
        let mut script = command(&words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = lines_of(script.stdout.take().unwrap());
        let mut text = stdout.recv_timeout(PATIENCE).expect("the first line");
        assert_eq!(text.trim_end(), "ready");
        script.stdin.as_mut().unwrap().write_all(typed).unwrap();
        let status = end_of(&mut script, "the end of the terminal session");
        text.push_str(&rest_of(&stdout));
        assert!(text.contains(answer), "{text:?}");
        assert_eq!(status.code(), Some(code), "{text:?}");
    }
}
