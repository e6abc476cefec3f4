//! Every task and every channel of a node, in one place. Between stages stand latest-value channels: a burst
//! coalesces by itself, and the last value always arrives.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::gauges;
use super::own_status::OwnStatus;
use super::relays::{beat, edge_settings, publish, report_health, show_streams};
use super::site::{Site, watch_site};
use crate::clock::{BootTime, SharedTime, wall};
use crate::config::RunFlags;
use crate::envoy::xds::XdsServer;
use crate::fleet::{Contact, KeySpace, Ports, Roster, node_id};
use crate::metrics::{self, Health, Metrics};
use crate::page::{self, About, Publisher};
use crate::pki::reload::follow;
use crate::pki::tls::Tls;
use crate::presence::client::AttendLeader;
use crate::presence::connect::Dial;
use crate::presence::control_port;
use crate::presence::failure_detector::FailureDetector;
use crate::presence::server::{Attending, PresenceService};
use crate::process::readiness::{Question, watch_readiness};
use crate::process::service::Service;
use crate::registry::client::Etcd;
use crate::registry::leader::acknowledgements::WriteAcknowledgements;
use crate::registry::leader::election::{ASLEEP, Election, holds_for};
use crate::registry::leader::event_log::WriteEvents;
use crate::registry::leader::mark_expiry::ExpireMarks;
use crate::registry::leader::term::in_each_term;
use crate::registry::lease::{Lease, Leases};
use crate::registry::recent_events::FollowEvents;
use crate::registry::registration::{Identity, Registration, Standing};
use crate::registry::removal::Reaper;
use crate::registry::watch::{Outlets, Settings, Watch, watch_contact};

/// The task whose end means that the registry has been left.
pub const REGISTRATION: &str = "registration";
/// Between heartbeats, as a part of the TTL. Renewals stop when none came for a third of it.
const HEARTBEATS_PER_TTL: u32 = 12;
/// How much longer than a lease a list that another history cut down is held back.
const HOLD_MARGIN: Duration = Duration::from_secs(1);

/// Ends of presence streams and verdicts under way: more at once are left to the leases.
const ENDS: usize = 256;

/// What is made before the tasks.
pub struct Parts {
    pub metrics: Metrics,
    /// `None`: everything in the clear.
    pub tls: Option<Tls>,
    pub etcd: Etcd,
    pub name: String,
    pub instance: String,
    pub control: TcpListener,
    pub health: TcpListener,
    pub served: Service,
    pub question: Question,
    /// `None` for a COMMAND, which serves no site.
    pub site: Option<Site>,
}

/// What the phases of life need of the running tasks.
pub struct Wiring {
    pub metrics: Metrics,
    pub standing: watch::Receiver<Standing>,
    /// Cancelled to announce the leave.
    pub drain: CancellationToken,
    /// Cancelled to end streams, lease and ports.
    pub close: CancellationToken,
}

/// Starts every task. None may end before [`Wiring::close`].
///
/// # Errors
/// A thread cannot be started, or `--dir` cannot be used.
pub fn start(flags: &RunFlags, parts: Parts, tasks: &mut JoinSet<&'static str>) -> Result<Wiring> {
    let Parts { metrics, tls, etcd, name, instance, control, health, served, question, site } = parts;
    let (newest_in, newest) = watch::channel(Arc::new(Roster::default()));
    let (roster_in, roster) = watch::channel(Arc::new(Roster::default()));
    let (address_in, address) = watch::channel(None);
    let (epoch_in, epoch) = watch::channel(0);
    let (contact_in, contact) = watch::channel(Contact::default());
    let (leadership_in, leadership) = watch::channel(None);
    let (lease_in, lease) = watch::channel(None);
    let (ready_in, ready) = watch::channel(false);
    let (standing_in, standing) = watch::channel(Standing::Absent("it has not registered yet"));
    let (published_in, published) = watch::channel(None);
    let (trouble_in, trouble) = watch::channel(None);
    let (health_in, health_out) = watch::channel(Health { live: Ok(()), ready: Err("starting".into()) });
    let (heard, heartbeat) = (SharedTime::default(), SharedTime::default());
    let (drain, close) = (CancellationToken::new(), CancellationToken::new());

    heartbeat.set(BootTime::now());
    let own_name = name.clone();
    let leases = Leases::start(&etcd, heartbeat.clone())?;
    let space = KeySpace::new(&*flags.registry.prefix, Vec::new());
    let settings = Settings {
        space: space.clone(),
        advertise: flags.advertise.clone(),
        allow: flags.allow.clone(),
        ttl: flags.ttl,
        hold: flags.ttl + HOLD_MARGIN,
    };
    let outlets = Outlets {
        newest: newest_in,
        roster: roster_in,
        address: address_in,
        heard: heard.clone(),
        epoch: epoch_in,
    };
    let watch = Watch::new(etcd.clone(), settings, outlets, metrics.clone());
    let registration = Registration {
        etcd: etcd.clone(),
        leases: leases.clone(),
        space: space.clone(),
        identity: Identity {
            name,
            instance: instance.clone(),
            ports: Ports { http: flags.http_port, control: flags.control_port, metrics: flags.metrics_port },
            version: env!("CARGO_PKG_VERSION").into(),
        },
        ttl: flags.ttl,
        linger: flags.linger,
        roster: newest.clone(),
        contact: contact.clone(),
        address: address.clone(),
        epoch: epoch.clone(),
        ready: ready.clone(),
        lease: lease_in,
        standing: standing_in,
        drain: drain.clone(),
        close: close.clone(),
        metrics: metrics.clone(),
    };
    let (streams_in, streams) = watch::channel(BTreeMap::new());
    let (admitted_in, admitted) = watch::channel(Arc::default());
    let proven_until = SharedTime::default();
    let acknowledgements = WriteAcknowledgements {
        space: space.clone(),
        ttl: flags.ttl,
        instance: instance.clone(),
        roster: roster.clone(),
        streams,
        admitted: admitted_in,
    };
    let marks = ExpireMarks { space: space.clone(), keep: flags.keep_marks, roster: newest.clone() };
    let history = WriteEvents { space: space.clone(), allow: flags.allow.clone(), address: address.clone() };
    let (recent_in, recent) = watch::channel(None);
    let follow_history =
        FollowEvents { etcd: etcd.clone(), space: space.clone(), epoch: epoch.clone(), events: recent_in };
    let awake = SharedTime::default();
    let election = Election {
        etcd: etcd.clone(),
        space: space.clone(),
        roster: newest.clone(),
        lease: lease.clone(),
        contact: contact.clone(),
        awake: awake.clone(),
        leadership: leadership_in,
        proven_until: proven_until.clone(),
    };
    let holder = lease.clone();
    let holds = move || {
        let moves = BootTime::now().saturating_since(awake.get()) <= ASLEEP;
        let leased = holder.borrow().as_ref().is_some_and(Lease::holds);
        moves && leased && !holds_for(&proven_until).is_zero()
    };
    let xds = XdsServer::new(published, Arc::new(holds), Arc::new(gauges::Counted(metrics.clone())))
        .with_admission(admitted);
    let open = xds.streams().watch();
    let attending = Attending::default();
    let (ended_in, ended) = mpsc::channel(ENDS);
    let (lost_in, lost) = mpsc::channel(ENDS);
    let (verdicts_in, verdicts) = mpsc::channel(ENDS);
    let presence = PresenceService {
        instance: instance.clone(),
        leadership: leadership.clone(),
        attending: attending.clone(),
        ended: ended_in,
    };
    let dial = Dial { tls: tls.clone() };
    let attend = AttendLeader {
        dial: dial.clone(),
        instance: instance.clone(),
        roster: newest.clone(),
        drain: drain.clone(),
        lost: lost_in,
    };
    let inquests = FailureDetector {
        dial,
        instance: instance.clone(),
        roster: newest.clone(),
        leadership: leadership.clone(),
        attending,
        ended,
        lost,
        verdicts: verdicts_in,
    };
    let reaper = Reaper {
        etcd: etcd.clone(),
        space: space.clone(),
        instance: instance.clone(),
        ttl: flags.ttl,
        roster: newest.clone(),
        lease: lease.clone(),
        verdicts,
    };
    let about = About { fleet: flags.registry.fleet.clone(), prefix: flags.registry.prefix.clone() };
    let publisher =
        || Publisher::new(&flags.dir).with_context(|| format!("cannot use --dir {}", flags.dir.display()));
    let (publisher, historian, diarist) = (publisher()?, publisher()?, publisher()?);
    let answered = SharedTime::default();
    let looker = OwnStatus {
        id: node_id(&own_name, &instance),
        name: own_name,
        started_at: wall(),
        ttl: flags.ttl,
        roster: roster.clone(),
        address: address.clone(),
        contact: contact.clone(),
        heard: heard.clone(),
        lease: lease.clone(),
        leadership: leadership.clone(),
        served: served.clone(),
        answered: answered.clone(),
        trouble,
    };
    let edge = edge_settings(flags);
    let asked = !matches!(question, Question::Nothing);

    let mut spawn = |name, task: Task| {
        tasks.spawn(async move {
            task.await;
            name
        });
    };
    let ended = leases.clone();
    spawn("lease", Box::pin(async move { ended.ended().await }));
    spawn("heartbeat", Box::pin(beat(heartbeat, flags.ttl / HEARTBEATS_PER_TTL)));
    spawn("watch", Box::pin(watch.run()));
    spawn("contact", Box::pin(watch_contact(heard.clone(), flags.ttl, contact_in, roster.clone())));
    spawn(REGISTRATION, Box::pin(registration.run()));
    spawn("election", Box::pin(election.run()));
    spawn("drained", Box::pin(in_each_term(acknowledgements, etcd.clone(), leadership.clone())));
    spawn("marks", Box::pin(in_each_term(marks, etcd.clone(), leadership.clone())));
    spawn("history", Box::pin(in_each_term(history, etcd.clone(), leadership.clone())));
    spawn("recent", Box::pin(follow_history.run()));
    spawn("streams", Box::pin(show_streams(open, epoch, streams_in, metrics.clone())));
    spawn(
        "readiness",
        Box::pin(watch_readiness(question, served.clone(), ready_in, answered, metrics.clone())),
    );
    spawn(
        "page",
        Box::pin(page::run(publisher, about.clone(), roster.clone(), contact.clone(), metrics.clone())),
    );
    spawn("chronicle", Box::pin(page::run_history(historian, about, recent, metrics.clone())));
    spawn("itself", Box::pin(page::run_itself(diarist, move || looker.look(), metrics.clone())));
    if let Some(site) = site {
        spawn("site", Box::pin(watch_site(site, trouble_in)));
    }
    spawn("snapshot", Box::pin(publish(roster.clone(), leadership.clone(), edge, published_in)));
    spawn(
        "gauges",
        Box::pin(gauges::follow(roster, contact, leadership, lease, heard.clone(), metrics.clone())),
    );
    spawn(
        "health",
        Box::pin(report_health(
            (served, asked),
            ready,
            standing.clone(),
            drain.clone(),
            health_in,
            metrics.clone(),
        )),
    );
    let (stop, counted) = (close.clone(), metrics.clone());
    spawn("metrics", Box::pin(async move { drop(metrics::serve(health, counted, health_out, stop).await) }));
    if let Some(tls) = tls.clone() {
        spawn("certificates", Box::pin(follow(tls, metrics.clone())));
    }
    spawn("control", Box::pin(control_port::serve(control, tls, xds, presence, close.clone())));
    spawn("attendance", Box::pin(attend.run()));
    spawn("inquests", Box::pin(inquests.run()));
    spawn("reaper", Box::pin(reaper.run()));
    Ok(Wiring { metrics, standing, drain, close })
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
