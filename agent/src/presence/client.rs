//! The other end of presence: every agent attends the leader, and looks into it when that stream ends.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::debug;

use super::connect::{CONNECT_TIMEOUT, Dial};
use super::proto::presence_client::PresenceClient;
use super::proto::{Attendance, Roll};
use super::transport::Closed;
use crate::fleet::verdict::Ending;
use crate::fleet::{Candidate, Roster};
use crate::latest;

/// Pause before a leader is attended again that did not take it or let go of it.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a leader may stay out of reach before it is looked into, and between one look and the next.
const OUT_OF_REACH: Duration = Duration::from_secs(1);

/// The leader's stream ended while it was still the leader.
#[derive(Clone, Debug)]
pub struct LeaderStreamEnded {
    pub leader: Candidate,
    pub ending: Ending,
    pub at: Instant,
}

/// Holds a presence stream to the present leader.
pub struct AttendLeader {
    pub dial: Dial,
    pub instance: String,
    pub roster: watch::Receiver<Arc<Roster>>,
    /// Cancelled when this node leaves in peace.
    pub drain: CancellationToken,
    /// Told when the leader's stream has ended by itself while it was still the leader.
    pub lost: mpsc::Sender<LeaderStreamEnded>,
}

impl AttendLeader {
    /// Never returns; ends when dropped.
    pub async fn run(mut self) {
        let mut missed: Option<(Candidate, Instant)> = None;
        loop {
            let leader = self.roster.borrow_and_update().leader().cloned();
            let Some(leader) =
                leader.filter(|leader| leader.control.port() != 0 && leader.instance != self.instance)
            else {
                latest::changed(&mut self.roster).await;
                continue;
            };
            let mut ending = self.attend(&leader).await;
            let before = missed.take().filter(|(who, _)| who.is(&leader));
            if ending == Some(Ending::Absent) {
                let since = before.map_or_else(Instant::now, |(_, since)| since);
                if since.elapsed() < OUT_OF_REACH {
                    ending = None;
                    missed = Some((leader.clone(), since));
                }
            }
            if let Some(ending) = ending
                && self.roster.borrow().leader().is_some_and(|now| now.is(&leader))
                && !self.drain.is_cancelled()
            {
                let lost = LeaderStreamEnded { leader, ending, at: Instant::now() };
                // A full queue has the same leader in it.
                _ = self.lost.try_send(lost);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Holds the stream until it ends or another node leads; how it ended, if it ended by itself.
    async fn attend(&mut self, leader: &Candidate) -> Option<Ending> {
        let closed = Closed::default();
        let opened = open(&self.dial, leader.control, &self.instance, closed.clone()).await;
        let Some((words, mut roll)) = opened else { return Some(Ending::Absent) };
        debug!(name: "attending", leader = leader.instance, "attending");
        let mut drained = false;
        loop {
            tokio::select! {
                word = roll.message() => match word {
                    Ok(Some(_)) => {}
                    // Told that it is over by one that does not lead any more: the roster will say so, too.
                    Ok(None) => return None,
                    Err(status) if status.code() == tonic::Code::Unavailable && status.message() == "over" => return None,
                    Err(_) => return Some(if closed.by_peer() { Ending::Closed } else { Ending::Silent }),
                },
                changed = self.roster.changed() => {
                    // A leader that registers again, because its nginx was restarted, keeps its streams: all at once
                    // would look to it as if it were cut off.
                    let leads = self.roster.borrow_and_update().leader().is_some_and(|now| now.is(leader));
                    if changed.is_err() || !leads {
                        say_goodbye(&words, &self.instance).await;
                        return None;
                    }
                }
                () = self.drain.cancelled(), if !drained => {
                    drained = true;
                    say_goodbye(&words, &self.instance).await;
                }
            }
        }
    }
}

/// A stream that the leader has taken.
async fn open(
    dial: &Dial,
    leader: SocketAddrV4,
    instance: &str,
    closed: Closed,
) -> Option<(mpsc::Sender<Attendance>, Streaming<Roll>)> {
    let channel = dial.connect(leader, closed).await.ok()?;
    let (words, spoken) = mpsc::channel(2);
    words.send(Attendance { instance: instance.to_owned(), goodbye: false }).await.ok()?;
    let mut leader_port = PresenceClient::new(channel);
    let answer = leader_port.attend(ReceiverStream::new(spoken));
    let mut roll = timeout(CONNECT_TIMEOUT, answer).await.ok()?.ok()?.into_inner();
    timeout(CONNECT_TIMEOUT, roll.message()).await.ok()?.ok()??;
    Some((words, roll))
}

async fn say_goodbye(words: &mpsc::Sender<Attendance>, instance: &str) {
    // Without a receiver the goodbye is not needed.
    _ = words.send(Attendance { instance: instance.to_owned(), goodbye: true }).await;
}
