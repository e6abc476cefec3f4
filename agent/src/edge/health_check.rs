//! Polls Envoy's readiness, keeps `/readyz` and the metrics current with it, and kills an Envoy that is silent.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::admin::{Admin, Readiness};
use crate::latest;
use crate::metrics::{EdgeMetrics, EnvoyRestart, Health};
use crate::process::Pid;
use crate::process::service::{ChildState, Service};
use crate::process::watchdog::{HealthVerdict, Heard, Rules, Watchdog};

/// Until it is ready the first time it is asked more often: joining should not wait for a clock.
const STARTING_PAUSE: Duration = Duration::from_millis(50);
/// By what Envoy is judged; `silence` is a flag. Any answer is a sign of life, also 503: an Envoy without a leader waits and
/// says so.
const RULES: Rules = Rules {
    pause: Duration::from_millis(200),
    patience: Duration::from_secs(1),
    last_chance: Duration::from_millis(100),
    late: Duration::from_millis(250),
    silence: Duration::from_secs(1),
    start: Duration::from_secs(30),
};

/// Polls one Envoy.
pub(super) struct HealthCheck {
    pub(super) admin: Admin,
    pub(super) served: Service,
    pub(super) silence: Duration,
    pub(super) health: watch::Sender<Health>,
    pub(super) metrics: EdgeMetrics,
}

impl HealthCheck {
    /// Never returns.
    pub(super) async fn keep(self) {
        let mut state = self.served.state();
        let mut lives = Lives::default();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                ChildState::Running { pid } => {
                    if let Some(reason) = lives.begin(pid) {
                        self.metrics.envoy_restarts.get_or_create(&reason).inc();
                    }
                    tokio::select! {
                        () = self.one_life() => {
                            lives.killed = true;
                            self.served.kill("it does not answer");
                        }
                        _ = state.changed() => continue,
                    }
                }
                _ => self.show(false, Err("envoy does not run".into())),
            }
            // Once the life is over, this task must not be the first to say so.
            latest::changed(&mut state).await;
        }
    }

    /// Asks until this life of Envoy is to be ended.
    async fn one_life(&self) {
        let began = Instant::now();
        let mut watchdog = Watchdog::new(Rules { silence: self.silence, ..RULES }, began.elapsed());
        loop {
            let patience = watchdog.asks(began.elapsed());
            let answer = self.admin.ready(patience).await;
            let (heard, why) = match &answer {
                Ok(Readiness::Ready) => (Heard::Ready, String::new()),
                Ok(Readiness::Initializing) => (Heard::NotReady, "envoy waits for its configuration".into()),
                Ok(Readiness::Draining) => (Heard::NotReady, "envoy drains".into()),
                Err(silence) => (Heard::Nothing, format!("envoy does not answer: {silence}")),
            };
            match watchdog.hears(began.elapsed(), heard) {
                HealthVerdict::Ready => self.show(true, Ok(())),
                HealthVerdict::NotReady => self.show(true, Err(why)),
                HealthVerdict::Doubtful => self.show(false, Err(why)),
                HealthVerdict::Dead => return self.show(false, Err(why)),
            }
            let starting = heard != Heard::Ready;
            sleep(if starting { STARTING_PAUSE } else { RULES.pause }).await;
        }
    }

    fn show(&self, up: bool, ready: Result<(), String>) {
        self.metrics.envoy_up.set(i64::from(up));
        self.metrics.envoy_ready.set(i64::from(ready.is_ok()));
        let mut before = None;
        self.health.send_if_modified(|health| {
            before = Some(health.ready.is_ok());
            let changed = health.ready != ready;
            health.ready.clone_from(&ready);
            changed
        });
        match (before, &ready) {
            (Some(false), Ok(())) => info!(name: "envoy-is-ready", "envoy is ready"),
            (Some(true), Err(why)) => warn!(name: "envoy-is-not-ready", why, "envoy is not ready"),
            _ => {}
        }
    }
}

/// One life of Envoy after the other.
#[derive(Debug, Default)]
struct Lives {
    known: Option<Pid>,
    /// The known one was killed by this agent.
    killed: bool,
}

impl Lives {
    /// A life that may be new: why the one before is gone, if there was one.
    fn begin(&mut self, pid: Pid) -> Option<EnvoyRestart> {
        if self.known.replace(pid).is_none_or(|before| before == pid) {
            return None;
        }
        let killed = std::mem::take(&mut self.killed);
        Some(if killed { EnvoyRestart::Silent } else { EnvoyRestart::Ended })
    }
}
