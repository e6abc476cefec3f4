//! `muster switchover`: another node leads, while everything is well.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};
use tracing::error;

use super::select_node::which;
use super::survey::{Access, Survey};
use super::{FAILED, FINE, TIMED_OUT, unanswered};
use crate::config::SwitchoverFlags;
use crate::fleet::{Candidate, EnvoyValue};
use crate::registry::envoys::envoys;
use crate::registry::operator::switch;

const LOOK: Duration = Duration::from_millis(50);

/// Moves the leadership, and waits until the new leader has Envoy.
///
/// # Errors
/// The runtime cannot be made, the certificates cannot be used, or standard output is closed.
pub fn run(flags: &SwitchoverFlags) -> Result<u8> {
    super::block_on(async {
        let access = Access::open(&flags.fleet).await?;
        let survey = match access.survey().await {
            Ok(survey) => survey,
            Err(error) => return Ok(unanswered(&error)),
        };
        let (leader, to) = match chosen(&survey, flags.to.as_deref()) {
            Ok(chosen) => chosen,
            Err(why) => {
                error!(name: "leadership-not-moved", why, "leadership not moved");
                return Ok(FAILED);
            }
        };
        let began = Instant::now();
        match switch(&access.etcd, &access.space, leader, to).await {
            Ok(true) => {}
            Ok(false) => {
                error!(
                    name: "leadership-not-moved",
                    why = "who is in line has changed meanwhile: try again",
                    "leadership not moved"
                );
                return Ok(FAILED);
            }
            Err(error) => return Ok(unanswered(&error)),
        }
        let envoys = survey.connected().count();
        loop {
            if leads(&access, to, envoys).await {
                let (name, took) = (name(&survey, to), began.elapsed().as_millis());
                writeln!(std::io::stdout(), "{name} leads ({took} ms)")?;
                return Ok(FINE);
            }
            if began.elapsed() >= flags.wait {
                error!(
                    name: "leadership-not-taken-up-in-time",
                    to = name(&survey, to),
                    bound_s = flags.wait.as_secs(),
                    "leadership not taken up in time"
                );
                return Ok(TIMED_OUT);
            }
            sleep(LOOK).await;
        }
    })
}

/// The present leader and the next one. Refused while something is not well: a change of leader then makes it worse.
fn chosen<'a>(survey: &'a Survey, to: Option<&str>) -> Result<(&'a Candidate, &'a Candidate), String> {
    let leader = survey.leader().ok_or("nobody leads: the next in line takes it up by itself")?;
    let to = match to {
        Some(typed) => {
            let line = which(survey, typed)?;
            let found = survey.roster.candidates().find(|candidate| candidate.instance == line.instance);
            found.ok_or(format!(
                "{} does not stand for it: it leaves, or its agent is in trouble",
                line.name
            ))?
        }
        None => survey
            .roster
            .line()
            .into_iter()
            .find(|other| other.lease != leader.lease)
            .ok_or("nobody else stands for it")?,
    };
    if to.lease == leader.lease {
        return Err(format!("{} leads already", name(survey, to)));
    }
    let agrees = |line: &super::survey::Line| matches!(line.file, super::survey::File::Agrees { .. });
    if !survey.lines.iter().any(|line| line.instance == to.instance && line.routable && agrees(line)) {
        return Err(format!("{} does not serve the list as it is now", name(survey, to)));
    }
    Ok((leader, to))
}

fn name(survey: &Survey, candidate: &Candidate) -> String {
    let line = survey.lines.iter().find(|line| line.instance == candidate.instance);
    line.map_or_else(|| candidate.control.to_string(), |line| line.name.clone())
}

/// Whether it leads, and as many Envoys are with it as were with its predecessor.
async fn leads(access: &Access, to: &Candidate, at_least: usize) -> bool {
    let known = tokio::join!(access.roster(), envoys(&access.etcd, &access.space));
    let (Ok((roster, _)), Ok(known)) = known else { return false };
    let with_it =
        |envoy: &&EnvoyValue| envoy.connected && envoy.writer == to.create_revision && envoy.digest.is_some();
    roster.leader().is_some_and(|leader| leader.lease == to.lease)
        && known.values().filter(with_it).count() >= at_least
}
