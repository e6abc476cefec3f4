//! Follows the files of a [`Tls`]: new certificates are taken over, unusable ones are refused once and loudly, and the
//! end of those in use is told in time.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::read::moment;
use super::set::Print;
use super::tls::Tls;
use crate::clock::unix_now;
use crate::metrics::{Metrics, Reload};

/// Between looks at the files: six calls of stat.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long before the end it is told, in seconds.
const SOON: i64 = 30 * 86_400;

/// What was told of the set in use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    EndsSoon,
    Ended,
}

/// Never returns; ends when dropped.
pub async fn follow(tls: Tls, metrics: Metrics) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::Nothing;
    let mut tried: Option<Print> = None;
    let mut complained: Option<Print> = None;
    metrics.tls_expires_timestamp.set(tls.set().ends as f64);
    loop {
        looks.tick().await;
        let now = unix_now();
        let print = tls.print();
        // Again and again: what is not yet valid will be.
        if print != tls.set().print {
            match tls.reload(now) {
                Ok(set) => {
                    told = Told::Nothing;
                    metrics.tls_expires_timestamp.set(set.ends as f64);
                    metrics.tls_reloads.get_or_create(&Reload::Taken).inc();
                    info!(
                        name: "new-certificates-in-use",
                        ends = moment(set.ends),
                        "new certificates in use"
                    );
                }
                // Files that come one by one are no mistake before the last has come.
                Err(_) if tried.as_ref() != Some(&print) || complained.as_ref() == Some(&print) => {}
                Err(wrong) => {
                    metrics.tls_reloads.get_or_create(&Reload::Refused).inc();
                    error!(
                        name: "new-certificates-cannot-be-used",
                        error = %wrong,
                        "new certificates cannot be used, the old ones stay"
                    );
                    complained = Some(print.clone());
                }
            }
            tried = Some(print);
        }
        told = tell(told, tls.set().ends, now);
    }
}

fn tell(told: Told, ends: i64, now: i64) -> Told {
    let at = moment(ends);
    if ends < now && told < Told::Ended {
        error!(
            name: "certificates-have-ended",
            ended = at,
            "certificates have ended: new connections fail, open ones and files stay"
        );
        Told::Ended
    } else if ends <= now + SOON && told < Told::EndsSoon {
        warn!(name: "certificates-end-soon", ends = at, "certificates end soon");
        Told::EndsSoon
    } else {
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_before_and_once_after() {
        let day = 86_400;
        let mut told = Told::Nothing;
        let mut story = Vec::new();
        for now in (0..60).map(|days| days * day) {
            let next = tell(told, 40 * day, now);
            if next != told {
                story.push((now / day, next == Told::Ended));
            }
            told = next;
        }
        assert_eq!(story, [(10, false), (41, true)]);
        assert!(tell(Told::Nothing, 0, day) == Told::Ended, "at once when it is too late for a warning");
    }
}
