//! Whether the served process answers, asked again and again; one that has stopped answering is killed.

use std::net::SocketAddr;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::probe::{ProbeAnswer, ReadyUrl, probe};
use super::service::{ChildState, Service};
use super::turns::Turns;
use super::watchdog::{HealthVerdict, Heard, Rules, Watchdog};
use crate::clock::{BootTime, SharedTime};
use crate::latest;
use crate::metrics::Metrics;

/// Between probes until the first answer: joining should not wait for a clock.
const STARTING_INTERVAL: Duration = Duration::from_millis(10);
/// By what a process is judged that answers: two of its answers and two pauses stay under the second in which a hung nginx
/// must be gone.
const RULES: Rules = Rules {
    pause: Duration::from_millis(200),
    patience: BOUND,
    last_chance: BOUND,
    late: Duration::from_millis(50),
    silence: Duration::ZERO,
    start: START_BOUND,
};
/// Longest wait for an answer.
const BOUND: Duration = Duration::from_millis(250);
/// How long nginx may be taken for late because it waits for a core or a disk. After that it counts as not answering.
const STARVED_BOUND: Duration = Duration::from_secs(5);
/// How long ago nginx was last seen to wait for a read when it counts as hung all the same: between two reads of one slow file
/// it moves for a moment.
const READ_BOUND: Duration = Duration::from_secs(2);
/// A start without an answer for so long has failed.
const START_BOUND: Duration = Duration::from_secs(10);

/// Why there is no answer after a stop: expected, and logged at debug level only.
const OVER: &str = "it has ended";

/// What is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// The built-in nginx.
    Healthz { address: SocketAddr, instance: String },
    /// What the user named for a COMMAND.
    Url(ReadyUrl),
    /// A COMMAND that cannot be asked, and so is never ready.
    Nothing,
}

/// Asks `question` as long as the agent lives and keeps `ready` true while 200 comes back. The built-in nginx is
/// killed, group and all, when it hangs: its life then starts it again. A COMMAND is left alone. `answered` is moved to
/// each answer. Never returns.
pub async fn watch_readiness(
    question: Question,
    served: Service,
    ready: watch::Sender<bool>,
    answered: SharedTime,
    metrics: Metrics,
) {
    let kills = matches!(question, Question::Healthz { .. });
    let mut state = served.state();
    let began = Instant::now();
    let mut watchdog = Watchdog::new(RULES, Duration::ZERO);
    let mut since = Instant::now();
    // What hangs is killed, but not while it waits for a file that is slow to come.
    let mut hung = false;
    let mut read_at: Option<Instant> = None;
    let mut known = None;
    loop {
        let running = match *state.borrow_and_update() {
            ChildState::Running { pid } => Some(pid),
            _ => None,
        };
        if let Some(pid) = running
            && known.replace(pid).is_some_and(|before| before != pid)
        {
            metrics.nginx_restarts.inc();
        }
        if running.is_none() || matches!(question, Question::Nothing) {
            (since, hung, read_at) = (Instant::now(), false, None);
            watchdog = Watchdog::new(RULES, began.elapsed());
            let over = matches!(*state.borrow(), ChildState::Exited(_));
            set(&ready, &metrics, false, if over { OVER } else { "it does not run" });
            // Once the life is over, this task must not be the first to say so.
            latest::changed(&mut state).await;
            continue;
        }
        // Only after a miss, which alone decides nothing: a node that answers does not read /proc five times a second.
        let turns =
            running.filter(|_| kills && watchdog.doubts()).and_then(|pid| Some((pid, Turns::of(pid)?)));
        let asked = Instant::now();
        watchdog.asks(began.elapsed());
        let answer = ask(&question, &metrics).await;
        if answer.is_err() && since.elapsed() < STARVED_BOUND && is_starved(turns, asked.elapsed()) {
            debug!(
                name: "nginx-waits-for-a-core-or-a-disk",
                "nginx waits for a core or a disk: that does not count"
            );
            watchdog.excuses(began.elapsed());
        } else {
            let heard = if answer.is_ok() { Heard::Ready } else { Heard::Nothing };
            let verdict = watchdog.hears(began.elapsed(), heard);
            let why = answer.err().unwrap_or_default();
            match verdict {
                HealthVerdict::Ready | HealthVerdict::NotReady => {
                    (since, hung, read_at) = (Instant::now(), false, None);
                    answered.set(BootTime::now());
                    set(&ready, &metrics, true, "");
                }
                HealthVerdict::Doubtful => debug!(name: "no-answer", why, "no answer"),
                HealthVerdict::Dead => {
                    if !watchdog.has_been_ready() && kills && !hung {
                        warn!(
                            name: "nginx-did-not-answer-after-its-start",
                            why,
                            bound_s = START_BOUND.as_secs(),
                            "nginx did not answer after its start"
                        );
                    }
                    set(&ready, &metrics, false, &why);
                    hung = kills;
                }
            }
        }
        if watchdog.doubts() && running.and_then(Turns::of).is_some_and(Turns::waits_for_a_read) {
            read_at = Some(Instant::now());
        }
        if hung && read_at.is_none_or(|at| at.elapsed() > READ_BOUND) {
            hung = false;
            served.kill("it does not answer");
            // Until its end is known, what is left of it is judged as a start is, and not killed with each probe.
            watchdog = Watchdog::new(RULES, began.elapsed());
        }
        let pause = match (*ready.borrow(), watchdog.doubts()) {
            (true, false) => RULES.pause,
            (false, _) if since.elapsed() > START_BOUND => RULES.pause,
            _ => STARTING_INTERVAL,
        };
        tokio::select! {
            () = sleep(pause) => {}
            // A process that ended is known at once.
            () = latest::changed(&mut state) => {}
        }
    }
}

/// Whether nginx had no turn on a core, or waited for a read, since `turns`, which were its own `span` ago.
fn is_starved(turns: Option<(Pid, Turns)>, span: Duration) -> bool {
    turns.is_some_and(|(pid, before)| Turns::of(pid).is_some_and(|now| now.were_late(before, span)))
}

/// Whether it answers as it should; else why not.
async fn ask(question: &Question, metrics: &Metrics) -> Result<(), String> {
    let asked = Instant::now();
    let answer = match question {
        Question::Healthz { address, .. } => probe(*address, "/healthz", BOUND).await,
        Question::Url(url) => url.probe(BOUND).await,
        Question::Nothing => return Err("nothing to ask".into()),
    };
    let stranger = |answer: &ProbeAnswer| match question {
        Question::Healthz { instance, .. } => answer.instance.as_deref() != Some(instance),
        _ => false,
    };
    match answer {
        Ok(answer) if stranger(&answer) => Err("somebody else answers on its port".into()),
        Ok(answer) if answer.status.as_u16() == 200 => {
            metrics.nginx_probe_duration.observe(asked.elapsed().as_secs_f64());
            Ok(())
        }
        Ok(answer) => Err(format!("it answered {}", answer.status)),
        Err(error) => Err(error.to_string()),
    }
}

fn set(ready: &watch::Sender<bool>, metrics: &Metrics, now: bool, why: &str) {
    let changed = ready.send_if_modified(|ready| std::mem::replace(ready, now) != now);
    if changed {
        metrics.nginx_up.set(i64::from(now));
        if now {
            info!(name: "answering", "answering");
        } else if why == OVER {
            debug!(name: "not-answering", why, "not answering");
        } else {
            warn!(name: "not-answering", why, "not answering");
        }
    }
}
