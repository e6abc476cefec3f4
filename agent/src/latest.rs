//! Waiting on latest-value channels ([`tokio::sync::watch`]), whose other end is gone only when the agent stops: a task that
//! waits then is about to be dropped and must not go on.

use tokio::sync::watch::Receiver;

/// Waits for another value than the one seen last; for ever when none can come.
pub async fn changed<T>(receiver: &mut Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a value of which `wanted` is true, which may be the present one; for ever when none can come.
pub async fn wait_for<T>(receiver: &mut Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    if receiver.wait_for(wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_value_that_has_come_is_not_waited_for() {
        let (sender, mut receiver) = watch::channel(1);
        sender.send_replace(2);
        changed(&mut receiver).await;
        wait_for(&mut receiver, |value| *value == 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_on_because_the_other_end_is_gone() {
        let (sender, mut receiver) = watch::channel(1);
        drop(sender);
        let long = Duration::from_secs(3600);
        assert!(timeout(long, changed(&mut receiver)).await.is_err());
        assert!(timeout(long, wait_for(&mut receiver, |value| *value == 2)).await.is_err());
    }
}
