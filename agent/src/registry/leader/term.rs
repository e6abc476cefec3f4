//! [`Term`]: one time of leading. What is written in it is fenced: etcd takes it only while this agent's candidate key is
//! the one that has led.

use std::time::Duration;

use etcd_client::{Compare, TxnOp};
use tokio::sync::watch::Receiver;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::fleet::Leadership;
use crate::latest;
use crate::registry::client::{CALL_TIMEOUT, CallError, Etcd, txn};

/// Pause before a duty is begun again after etcd did not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Laps over all members before a write is given up for now.
const LAPS: usize = 2;
/// Operations in one transaction; etcd takes 128.
const MAX_OPERATIONS: usize = 100;

/// One time of leading, from the confirmation to the end of the right.
#[derive(Clone)]
pub struct Term {
    pub etcd: Etcd,
    pub leadership: Leadership,
}

/// Why a duty stops within its term.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// The fence did not hold: another leads, and this agent is about to hear of it.
    #[error("another leads")]
    Over,
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Term {
    /// Makes the writes in their order, fenced, in as many transactions as they need: the last of them is made only when all
    /// the others have been. Each may be repeated.
    ///
    /// # Errors
    /// [`TermError::Over`] as soon as another leads; otherwise as [`Etcd::call`].
    pub async fn commit(&self, writes: &[TxnOp]) -> Result<(), TermError> {
        for writes in writes.chunks(MAX_OPERATIONS) {
            if !self.etcd.commit(LAPS, &[self.fence()], writes, &[]).await?.succeeded {
                return Err(TermError::Over);
            }
        }
        Ok(())
    }

    /// Makes the writes if the guards hold, too; whether it was done. It is tried once on each member.
    ///
    /// # Errors
    /// As [`Etcd::call`].
    pub async fn commit_if(&self, guards: &[Compare], writes: &[TxnOp]) -> Result<bool, CallError> {
        let when = [&[self.fence()], guards].concat();
        Ok(self.etcd.commit(1, &when, writes, &[]).await?.succeeded)
    }

    fn fence(&self) -> Compare {
        txn::created_at(&self.leadership.key, self.leadership.create_revision)
    }
}

/// What a leader does for as long as it leads.
pub trait Duty {
    /// For the log.
    const NAME: &'static str;

    /// From the beginning of a term on. Dropped at its end; begun again when it returns before.
    fn lead(&mut self, term: &Term) -> impl Future<Output = Result<(), TermError>> + Send;

    /// After [`Duty::lead`] has returned or was dropped.
    fn rest(&mut self) {}
}

/// Runs a duty in each of this agent's terms. Never returns; ends when dropped.
pub async fn in_each_term<D: Duty>(mut duty: D, etcd: Etcd, mut leadership: Receiver<Option<Leadership>>) {
    loop {
        let Some(right) = leadership.borrow_and_update().clone() else {
            latest::changed(&mut leadership).await;
            continue;
        };
        let term = Term { etcd: etcd.clone(), leadership: right };
        let outcome = tokio::select! {
            // Nothing is begun in the name of a term that is over.
            biased;
            () = end(&mut leadership, &term) => Ok(()),
            outcome = duty.lead(&term) => outcome,
        };
        duty.rest();
        match outcome {
            Ok(()) => {}
            Err(TermError::Over) => _ = timeout(CALL_TIMEOUT, end(&mut leadership, &term)).await,
            Err(TermError::Call(error)) => {
                debug!(name: "duty-begins-again", duty = D::NAME, %error, "duty begins again");
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn end(leadership: &mut Receiver<Option<Leadership>>, term: &Term) {
    latest::wait_for(leadership, |now| now.as_ref() != Some(&term.leadership)).await;
}
