//! Whether processes had their turn on a core, or wait for a disk: what waits for one of them is late, and not hung.

use std::fs;
use std::ops::Add;
use std::time::Duration;

use nix::unistd::Pid;

/// What the scheduler has counted of a process and its children, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    /// Time on a core.
    ran: Duration,
    /// Time in which it could have run and had no core, up to its last turn: the present wait is added when it ends.
    waited: Duration,
    /// Whether one of them runs or waits for a core now.
    runnable: bool,
    /// Whether one of them waits for a read now, which nothing interrupts.
    reading: bool,
}

impl Turns {
    /// `None` where the kernel does not tell: proc_pid_schedstat(5) and proc_pid_children(5) are options of its build.
    pub(super) fn of(parent: Pid) -> Option<Self> {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        let children = children.split_whitespace().filter_map(one);
        Some(children.fold(one(&parent.to_string())?, Self::add))
    }

    /// Whether one of them waits for a file that is slow to come. Killed, it would end no sooner, and the next one would wait
    /// for the same file.
    pub(super) fn waits_for_a_read(self) -> bool {
        self.reading
    }

    /// Whether the wait for a core, or for a read, explains a silence of `span`, at whose begin `before` was read. One that computed all
    /// the time is not late, whatever it computes.
    pub(super) fn were_late(self, before: Self, span: Duration) -> bool {
        let most = span / 2;
        let ran = self.ran.saturating_sub(before.ran);
        let starved = self.waited.saturating_sub(before.waited) > most || (self.runnable && ran < most);
        starved || (self.reading && before.reading)
    }
}

impl Add for Turns {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            ran: self.ran + other.ran,
            waited: self.waited + other.waited,
            runnable: self.runnable || other.runnable,
            reading: self.reading || other.reading,
        }
    }
}

fn one(pid: &str) -> Option<Turns> {
    let counted = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&counted, &stat)
}

/// The first two numbers of schedstat are nanoseconds. The state comes after the name, which may hold anything.
fn parse(counted: &str, stat: &str) -> Option<Turns> {
    let mut numbers = counted.split_whitespace().map(|number| number.parse().ok().map(Duration::from_nanos));
    let (ran, waited) = (numbers.next()??, numbers.next()??);
    let state = stat.rsplit_once(") ")?.1;
    Some(Turns { ran, waited, runnable: state.starts_with('R'), reading: state.starts_with('D') })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Instant;

    use nix::sched::{CpuSet, sched_getaffinity};

    use super::*;

    const SPAN: Duration = Duration::from_millis(250);

    fn turns(ran: u64, waited: u64, runnable: bool) -> Turns {
        Turns {
            ran: Duration::from_millis(ran),
            waited: Duration::from_millis(waited),
            runnable,
            reading: false,
        }
    }

    #[test]
    fn who_waits_for_a_core_is_late_and_who_sleeps_or_computes_is_not() {
        let before = turns(1000, 500, false);
        for (after, late) in [
            // Asleep with nothing to do but an answer: hung, or stopped.
            (turns(1000, 500, false), false),
            (turns(1001, 510, false), false),
            // Had its turn at last, after most of the time.
            (turns(1001, 700, false), true),
            // Has not had it yet.
            (turns(1000, 500, true), true),
            (turns(1100, 550, true), true),
            // Computes without an end.
            (turns(1250, 500, true), false),
        ] {
            assert_eq!(after.were_late(before, SPAN), late, "{after:?}");
        }
    }

    #[test]
    fn who_waits_for_a_read_from_begin_to_end_is_late() {
        let (waits, moves) = (Turns { reading: true, ..turns(5, 7, false) }, turns(5, 7, false));
        assert!(waits.were_late(waits, SPAN));
        assert!(!waits.were_late(moves, SPAN) && !moves.were_late(waits, SPAN));
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "123 (nginx: ) R S) R 1 123 123 0 -1 4194560";
        assert_eq!(parse("5000000 7000000 12\n", stat), Some(turns(5, 7, true)));
        assert_eq!(parse("5000000 7000000 12\n", "123 (sh) S 1 1"), Some(turns(5, 7, false)));
        assert_eq!(
            parse("5000000 7000000 12\n", "123 (nginx) D 1 1"),
            Some(Turns { reading: true, ..turns(5, 7, false) })
        );
        assert_eq!(parse("", stat), None);
        assert_eq!(parse("1 2 3", "123"), None);
    }

    /// Processes of a test, which end with it.
    struct Started(Vec<Child>);

    impl Started {
        fn start(&mut self, words: &[&str]) -> Pid {
            let child = Command::new(words[0]).args(&words[1..]).spawn().unwrap();
            let pid = child.id();
            self.0.push(child);
            let program = words.iter().rev().find(|word| ["sh", "sleep"].contains(word)).unwrap();
            let began = Instant::now();
            while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != *program {
                assert!(began.elapsed() < Duration::from_secs(30), "{words:?} was not executed");
                std::thread::yield_now();
            }
            Pid::from_raw(pid as i32)
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            for child in &mut self.0 {
                _ = child.kill();
                _ = child.wait();
            }
        }
    }

    /// A process that nothing interrupts looks to the kernel as one that waits for a disk: here the parent of a vfork.
    #[test]
    fn the_kernel_tells_who_waits_for_a_read() {
        let mut started = Started(Vec::new());
        let vfork = "import ctypes, time; ctypes.CDLL(None).vfork() or time.sleep(60)";
        let child = Command::new("python3").args(["-c", vfork]).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        started.0.push(child);
        let began = Instant::now();
        let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        // Until it does, it may read what it is made of, and wait for that for a moment.
        loop {
            let (before, since) = (Turns::of(pid).unwrap(), Instant::now());
            std::thread::sleep(SPAN);
            let after = Turns::of(pid).unwrap();
            if before.waits_for_a_read() && after.were_late(before, since.elapsed()) && !children().is_empty()
            {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{before:?} {after:?}");
        }
        for child in children().split_whitespace() {
            _ = nix::sys::signal::kill(
                Pid::from_raw(child.parse().unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
    }

    /// A core that is taken, and one process that gets it only when nobody else wants it.
    #[test]
    fn the_kernel_tells_who_has_no_core() {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let core = (0..CpuSet::count()).find(|core| allowed.is_set(*core).unwrap()).unwrap().to_string();
        let endless = ["sh", "-c", "while :; do :; done"];
        let mut started = Started(Vec::new());
        started.start(&[&["taskset", "-c", &core][..], &endless].concat());
        let idle = started.start(&[&["taskset", "-c", &core, "chrt", "-i", "0"][..], &endless].concat());
        let asleep = started.start(&["sleep", "60"]);
        let read = |pid| Turns::of(pid).expect("a kernel that counts turns");
        let before = [read(idle), read(asleep)];
        let began = Instant::now();
        std::thread::sleep(SPAN);
        let (after, span) = ([read(idle), read(asleep)], began.elapsed());
        assert!(after[0].were_late(before[0], span), "{before:?} {after:?}");
        assert!(!after[1].were_late(before[1], span), "{before:?} {after:?}");
    }
}
