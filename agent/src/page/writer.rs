//! [`Writer`]: writes files from a task, off the runtime's threads, and counts what came of it.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::files::{PublishError, Publisher, Written};
use crate::metrics::{Metrics, WriteResult};

/// Writes the files of one task.
pub(super) struct Writer {
    publisher: Arc<Publisher>,
    metrics: Metrics,
    failing: bool,
}

/// What came of one attempt. A failure is to be told once, and its end once.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The files say what they should; `again`: after they could not be written.
    Done { written: Vec<Written>, again: bool },
    /// `still`: the attempt before has failed, too.
    Failed { error: PublishError, still: bool },
}

impl Writer {
    pub(super) fn new(publisher: Publisher, metrics: Metrics) -> Self {
        Self { publisher: Arc::new(publisher), metrics, failing: false }
    }

    /// Lets `write` do its work on a thread of its own: a sync to a real disk would hold up the lease's renewal.
    pub(super) async fn write<F>(&mut self, write: F) -> Attempt
    where
        F: FnOnce(&Publisher) -> Result<Vec<Written>, PublishError> + Send + 'static,
    {
        let publisher = self.publisher.clone();
        let task = spawn_blocking(move || write(&publisher));
        let outcome = task.await.unwrap_or_else(|ended| resume_unwind(ended.into_panic()));
        let failed_before = std::mem::replace(&mut self.failing, outcome.is_err());
        let count = |file, result| self.metrics.list_writes.get_or_create(&(file, result)).inc();
        match outcome {
            Ok(written) => {
                for one in &written {
                    count(one.file, WriteResult::Written);
                }
                Attempt::Done { written, again: failed_before }
            }
            Err(error) => {
                count(error.file, WriteResult::Failed);
                Attempt::Failed { error, still: failed_before }
            }
        }
    }
}
