//! From a presence stream that ended to a verdict: asks, several times in a few hundred milliseconds, whether anybody
//! answers as that instance.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Dial;
use super::proto::Question;
use super::proto::presence_client::PresenceClient;
use super::transport::Closed;
use crate::pki::tls::TlsFailure;
use crate::process::probe::{ProbeError, probe};

/// When the quick questions are asked after the stream ended. A process that ends closes its sockets one by one: the
/// first may come before its listener is gone.
const ASKED_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(30)];
/// Longest wait for the answer to a quick question, and to a patient one. Only patient ones prove silence.
const QUICK: Duration = Duration::from_millis(20);
const PATIENT: Duration = Duration::from_millis(150);
const PATIENT_QUESTIONS: u32 = 2;
/// A question that took this much longer than its bound says that this agent was not running, and nothing about the other side.
const LATE: Duration = Duration::from_millis(50);
/// Questions in all, those that came late included.
const MAX_QUESTIONS: u32 = 20;

/// What one question came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Answered, as the instance asked for.
    Alive,
    /// Refused, reset, or answered by another instance: the instance is not there.
    Gone,
    /// No answer in time.
    None,
    /// This agent's own timer ran late: says nothing.
    Late,
}

/// What many came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    Alive,
    /// Another instance answered, or the connection was refused.
    Gone,
    /// The connection is accepted, and there is no answer.
    Mute,
}

/// Asks until it is clear. `ask` makes one question with the bound given.
pub async fn inquire<F: Future<Output = Reply>>(ask: impl Fn(Duration) -> F) -> ProbeOutcome {
    let began = Instant::now();
    let mut asked = 0;
    for at in ASKED_AT {
        sleep_until(began + at).await;
        asked += 1;
        match ask(QUICK).await {
            Reply::Alive => return ProbeOutcome::Alive,
            Reply::Gone => return ProbeOutcome::Gone,
            Reply::None | Reply::Late => {}
        }
    }
    let mut unanswered = 0;
    while unanswered < PATIENT_QUESTIONS && asked < MAX_QUESTIONS {
        asked += 1;
        match ask(PATIENT).await {
            Reply::Alive => return ProbeOutcome::Alive,
            Reply::Gone => return ProbeOutcome::Gone,
            Reply::None => unanswered += 1,
            Reply::Late => {}
        }
    }
    if unanswered < PATIENT_QUESTIONS { ProbeOutcome::Alive } else { ProbeOutcome::Mute }
}

/// Asks nginx's `/healthz` which instance it belongs to.
pub async fn ask_nginx(address: SocketAddrV4, instance: &str, bound: Duration) -> Reply {
    let began = Instant::now();
    let outcome = probe(SocketAddr::V4(address), "/healthz", bound).await;
    match outcome {
        Ok(answer) if answer.instance.as_deref() == Some(instance) => Reply::Alive,
        Ok(_) => Reply::Gone,
        Err(ProbeError::Refused | ProbeError::Reset | ProbeError::Closed) => Reply::Gone,
        Err(ProbeError::Timeout) if began.elapsed() > bound + LATE => Reply::Late,
        Err(ProbeError::Timeout | ProbeError::Other(_)) => Reply::None,
    }
}

/// Asks the agent itself. A connection that is accepted proves nothing: a stopped process's kernel does that too.
pub async fn ask_agent(dial: &Dial, address: SocketAddrV4, instance: &str, bound: Duration) -> Reply {
    let began = Instant::now();
    let question = async {
        let closed = Closed::default();
        let channel = match dial.connect(address, closed.clone()).await {
            Ok(channel) => channel,
            Err(error) => return not_connected(&error),
        };
        match PresenceClient::new(channel).here(Question {}).await {
            Ok(answer) if answer.get_ref().instance == instance => Reply::Alive,
            Ok(_) => Reply::Gone,
            Err(_) if closed.in_disagreement() => without_tls(TlsFailure::Disagreement),
            Err(status) => not_answered(&status),
        }
    };
    match timeout(bound, question).await {
        Ok(reply) => reply,
        Err(_) if began.elapsed() > bound + LATE => Reply::Late,
        Err(_) => Reply::None,
    }
}

fn not_connected(error: &tonic::transport::Error) -> Reply {
    match TlsFailure::of(error) {
        Some(trouble) => without_tls(trouble),
        None if nobody_listens(error) => Reply::Gone,
        None => Reply::None,
    }
}

fn not_answered(status: &tonic::Status) -> Reply {
    match status.code() {
        tonic::Code::Unimplemented => Reply::Gone,
        // It moves, and does not know us for an agent: a reason to look at certificates, not to depose it.
        tonic::Code::PermissionDenied => Reply::Alive,
        _ => Reply::None,
    }
}

/// Certificates that ended must not look like a leader that did: nothing is removed for lack of an answer.
fn without_tls(trouble: TlsFailure) -> Reply {
    match trouble {
        TlsFailure::Stranger => Reply::Gone,
        TlsFailure::Disagreement => Reply::Alive,
    }
}

fn nobody_listens(error: &tonic::transport::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset
            );
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers by script, the last one for ever, each after the bound it was given.
    async fn after(script: &[Reply]) -> (ProbeOutcome, Duration) {
        let left = Mutex::new(script.to_vec());
        let began = Instant::now();
        let inquest = inquire(|bound| {
            let reply = {
                let mut left = left.lock().unwrap();
                if left.len() > 1 { left.remove(0) } else { left[0] }
            };
            async move {
                if matches!(reply, Reply::None) {
                    tokio::time::sleep(bound).await;
                }
                reply
            }
        });
        (inquest.await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_the_end_at_once() {
        assert_eq!(after(&[Reply::Gone]).await, (ProbeOutcome::Gone, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_at_any_time_clears_it() {
        for silent in 0..4 {
            let mut script = vec![Reply::None; silent];
            script.push(Reply::Alive);
            assert_eq!(after(&script).await.0, ProbeOutcome::Alive, "after {silent} silent ones");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_takes_two_patient_questions() {
        let (inquest, took) = after(&[Reply::None]).await;
        assert_eq!(inquest, ProbeOutcome::Mute);
        assert!(took >= 2 * PATIENT && took < Duration::from_millis(400), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn questions_that_came_late_prove_nothing() {
        assert_eq!(after(&[Reply::Late]).await.0, ProbeOutcome::Alive);
    }
}
