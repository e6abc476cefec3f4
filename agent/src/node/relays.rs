//! What stands between the rooms: tasks that turn what some channels say into another channel, and flags for a room that
//! knows none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::clock::{BootTime, SharedTime};
use crate::config::RunFlags;
use crate::envoy::xds::{Published, StreamStatus};
use crate::envoy::{EdgeSettings, EdgeTls};
use crate::fleet::acknowledgements::AdsStream;
use crate::fleet::{Leadership, Roster};
use crate::latest;
use crate::metrics::{Health, Metrics, Phase};
use crate::process::service::{ChildState, Service};
use crate::registry::registration::Standing;

/// Moves the heartbeat: proof that this runtime still runs tasks.
pub(super) async fn beat(heartbeat: SharedTime, every: Duration) {
    let mut tick = interval(every);
    loop {
        tick.tick().await;
        heartbeat.set(BootTime::now());
    }
}

/// The roster as Envoy is to see it while this node leads; `None` while it does not.
pub(super) async fn publish(
    mut roster: watch::Receiver<Arc<Roster>>,
    mut leadership: watch::Receiver<Option<Leadership>>,
    edge: EdgeSettings,
    published: watch::Sender<Option<Arc<Published>>>,
) {
    loop {
        let leading = leadership.borrow_and_update().is_some();
        let now = roster.borrow_and_update().clone();
        published.send_replace(leading.then(|| Arc::new(Published::of(&now, &edge))));
        tokio::select! {
            () = latest::changed(&mut roster), if leading => {}
            () = latest::changed(&mut leadership) => {}
        }
    }
}

/// The open ADS streams as the registry's rooms know them. What was acknowledged in another history counts for nothing.
pub(super) async fn show_streams(
    mut open: watch::Receiver<BTreeMap<u64, StreamStatus>>,
    mut epoch: watch::Receiver<u64>,
    streams: watch::Sender<BTreeMap<u64, AdsStream>>,
    metrics: Metrics,
) {
    loop {
        let now = *epoch.borrow_and_update();
        let shown: BTreeMap<u64, AdsStream> = open
            .borrow_and_update()
            .iter()
            .map(|(number, stream)| {
                let through = if stream.epoch == now { stream.through } else { 0 };
                let rejection = stream.last_rejection.as_ref().map(|rejection| rejection.detail.clone());
                let (envoy, digest) = (stream.envoy.clone(), stream.digest.clone());
                (*number, AdsStream { envoy, through, digest, rejection })
            })
            .collect();
        metrics.xds_streams.set(shown.len() as i64);
        streams.send_replace(shown);
        tokio::select! {
            () = latest::changed(&mut open) => {}
            () = latest::changed(&mut epoch) => {}
        }
    }
}

/// Keeps `/livez` and `/readyz` current.
pub(super) async fn report_health(
    (served, asked): (Service, bool),
    mut ready: watch::Receiver<bool>,
    mut standing: watch::Receiver<Standing>,
    drain: CancellationToken,
    health: watch::Sender<Health>,
    metrics: Metrics,
) {
    let mut state = served.state();
    let mut known = false;
    loop {
        let leaving = drain.is_cancelled();
        let answers = *ready.borrow_and_update();
        let live = match &*state.borrow_and_update() {
            _ if answers => Ok(()),
            // A COMMAND that cannot be asked lives as long as it runs.
            ChildState::Running { .. } if !asked => Ok(()),
            ChildState::Running { .. } | ChildState::Starting => {
                Err("the served process does not answer".to_owned())
            }
            ChildState::Backoff { last, .. } => Err(format!("the served process starts again after: {last}")),
            ChildState::Exited(end) => Err(format!("the served process has ended: {end}")),
        };
        let ready_now = match *standing.borrow_and_update() {
            _ if leaving => Err("leaving".to_owned()),
            Standing::Registered if answers => Ok(()),
            Standing::Registered => Err("the served process does not answer".to_owned()),
            Standing::Absent(why) => Err(format!("not registered: {why}")),
            Standing::Drained(_) => Err("leaving".to_owned()),
        };
        known |= *standing.borrow() == Standing::Registered;
        match *standing.borrow() {
            // From here on the node's own life tells its phase.
            _ if leaving => {}
            Standing::Drained(_) => {}
            Standing::Registered => metrics.set_phase(Phase::Serving),
            Standing::Absent(_) if known => metrics.set_phase(Phase::Withdrawn),
            Standing::Absent(_) => metrics.set_phase(Phase::Starting),
        }
        health.send_replace(Health { live, ready: ready_now });
        tokio::select! {
            () = latest::changed(&mut ready) => {}
            () = latest::changed(&mut standing) => {}
            () = latest::changed(&mut state) => {}
            () = drain.cancelled(), if !leaving => {}
        }
    }
}

/// What the flags say about the edge.
pub fn edge_settings(flags: &RunFlags) -> EdgeSettings {
    EdgeSettings {
        listen: flags.edge,
        prefix: flags.registry.prefix.clone(),
        log_from: flags.access_log.of_envoy(),
        trusted_proxies: flags.trusted_proxies,
        tls: flags.edge_tls.map(|listen| EdgeTls {
            listen,
            port: flags.edge_tls_port.unwrap_or(listen.port()),
            secret: flags.edge_secret.display().to_string(),
        }),
    }
}
