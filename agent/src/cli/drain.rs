//! `muster drain` and `muster resume`: a node is taken out by a mark on its name, and let in again.

use std::io::Write;

use anyhow::Result;
use tokio::time::{Instant, timeout};
use tracing::error;

use super::select_node::{confirmed, shown, which};
use super::survey::{Access, Survey};
use super::{FAILED, FINE, TIMED_OUT, unanswered};
use crate::clock::wall;
use crate::config::{DrainFlags, MarkFlags};
use crate::fleet::Mark;
use crate::registry::drained::wait_through;
use crate::registry::operator::{mark, unmark};

/// What is done to the mark.
enum Action {
    Set { why: String, force: bool },
    Take,
}

/// Marks a node: it stays registered, is shown as draining, and gets no requests.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &DrainFlags) -> Result<u8> {
    super::block_on(carry_out(&flags.mark, Action::Set { why: flags.why.clone(), force: flags.force }))
}

/// Takes the mark away.
///
/// # Errors
/// As [`run`].
pub fn resume(flags: &MarkFlags) -> Result<u8> {
    super::block_on(carry_out(flags, Action::Take))
}

async fn carry_out(flags: &MarkFlags, deed: Action) -> Result<u8> {
    let access = Access::open(&flags.fleet).await?;
    let survey = match access.survey().await {
        Ok(survey) => survey,
        Err(error) => return Ok(unanswered(&error)),
    };
    let name = match subject(&survey, flags, &deed) {
        Ok(name) => name,
        Err(why) => {
            error!(name: "nothing-was-done", why, "nothing was done");
            return Ok(FAILED);
        }
    };
    let marked = survey.roster.marks().contains_key(&name);
    let mut out = std::io::stdout();
    let question = match (&deed, marked) {
        (Action::Set { .. }, true) => return Ok(say(&format!("{name} is drained already"))?),
        (Action::Take, false) => return Ok(say(&format!("{name} is not drained"))?),
        (Action::Set { .. }, false) => format!("take {name} out?"),
        (Action::Take, true) => format!("let {name} in again?"),
    };
    if !confirmed(&question, flags.yes)? {
        writeln!(out, "nothing was done")?;
        return Ok(FAILED);
    }
    let began = Instant::now();
    let written = match &deed {
        Action::Set { why, .. } => {
            mark(&access.etcd, &access.space, &name, &Mark { since: wall(), why: why.clone() }).await
        }
        Action::Take => unmark(&access.etcd, &access.space, &name).await,
    };
    let revision = match written {
        Ok(revision) => revision,
        Err(error) => {
            error!(name: "not-written", %error, "not written");
            return Ok(FAILED);
        }
    };
    let done = if matches!(deed, Action::Set { .. }) { "withdrawn" } else { "let in again" };
    let Some(bound) = flags.wait else { return Ok(say(&format!("{name} is {done}"))?) };
    // As a leaving node waits: what an Envoy has acknowledged by chance under an older revision proves nothing.
    let acknowledged = wait_through(&access.etcd, &access.space, || revision);
    if timeout(bound, acknowledged).await.is_err() {
        error!(
            name: "not-acknowledged-by-every-envoy-in-time",
            name,
            bound_s = bound.as_secs(),
            "not acknowledged by every envoy in time"
        );
        return Ok(TIMED_OUT);
    }
    let took = began.elapsed().as_millis();
    Ok(say(&format!("{name} is {done}, every envoy has acknowledged it ({took} ms)"))?)
}

/// The name whose mark is meant.
fn subject(survey: &Survey, flags: &MarkFlags, deed: &Action) -> Result<String, String> {
    let line = match which(survey, &flags.node) {
        // A mark outlives its node.
        Err(_) if survey.roster.marks().contains_key(&flags.node) => return Ok(flags.node.clone()),
        line => line?,
    };
    let others = survey.lines.iter().filter(|other| other.routable && other.name != line.name).count();
    if let Action::Set { force: false, .. } = deed
        && line.routable
        && others == 0
    {
        return Err(format!(
            "{} is the last node that requests are sent to; --force does it all the same",
            shown(line)
        ));
    }
    Ok(line.name.clone())
}

fn say(sentence: &str) -> std::io::Result<u8> {
    writeln!(std::io::stdout(), "{sentence}")?;
    Ok(FINE)
}
