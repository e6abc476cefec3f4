//! A real server on a free port of 127.0.0.1, leading or not as the test wants.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster::envoy::ResourceType;
use muster::envoy::xds::{AckKind, Published, StreamStatus, Streams, XdsEvents, XdsServer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

/// Every wait in these tests ends here, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Leader {
    pub address: SocketAddr,
    pub streams: Streams,
    pub counts: Arc<Counts>,
    pub holds: Arc<AtomicBool>,
    /// `None` once the agent has ended.
    publish: Option<watch::Sender<Option<Arc<Published>>>>,
    server: JoinHandle<()>,
}

/// What the server reported of itself.
#[derive(Default)]
pub struct Counts {
    pub pushes: AtomicUsize,
    pub refused: AtomicUsize,
    pub unknown: AtomicUsize,
    pub timed: AtomicUsize,
    verdicts: Mutex<Vec<(ResourceType, AckKind)>>,
}

impl Counts {
    pub fn of(&self, verdict: AckKind) -> usize {
        self.verdicts.lock().unwrap().iter().filter(|(_, given)| *given == verdict).count()
    }
}

impl XdsEvents for Counts {
    fn on_push(&self, _: ResourceType) {
        self.pushes.fetch_add(1, Ordering::SeqCst);
    }

    fn on_response(&self, kind: ResourceType, verdict: AckKind) {
        self.verdicts.lock().unwrap().push((kind, verdict));
    }

    fn on_ack_duration(&self, _: ResourceType, _: Duration) {
        self.timed.fetch_add(1, Ordering::SeqCst);
    }

    fn on_unknown_type(&self) {
        self.unknown.fetch_add(1, Ordering::SeqCst);
    }

    fn on_refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

impl Leader {
    pub async fn start(published: Option<Published>) -> Self {
        Self::start_with(published, |server| server).await
    }

    pub async fn start_with(
        published: Option<Published>,
        adjust: impl FnOnce(XdsServer) -> XdsServer,
    ) -> Self {
        let (publish, snapshots) = watch::channel(published.map(Arc::new));
        let holds = Arc::new(AtomicBool::new(true));
        let counts = Arc::new(Counts::default());
        let asked = holds.clone();
        let server = XdsServer::new(
            snapshots,
            Arc::new(move || asked.load(Ordering::SeqCst)),
            counts.clone() as Arc<dyn XdsEvents>,
        );
        let server = adjust(server);
        let streams = server.streams();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(server.into_service())
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serving.await.unwrap() });
        Self { address, streams, counts, holds, publish: Some(publish), server }
    }

    pub fn publish(&self, published: Published) {
        self.publish.as_ref().unwrap().send_replace(Some(Arc::new(published)));
    }

    pub fn demote(&self) {
        self.publish.as_ref().unwrap().send_replace(None);
    }

    /// Whoever published is gone without a word.
    pub fn forget(&mut self) {
        self.publish = None;
    }

    /// Waits until the open streams look like this.
    pub async fn streams_when(&self, wanted: impl Fn(&[StreamStatus]) -> bool) -> Vec<StreamStatus> {
        let mut changes = self.streams.watch();
        let waiting = async {
            loop {
                let list = self.streams.list();
                if wanted(&list) {
                    return list;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(list) => list,
            Err(_) => panic!("the streams are still {:#?}", self.streams.list()),
        }
    }

    pub async fn through_reaches(&self, revision: i64) {
        self.streams_when(|list| !list.is_empty() && list.iter().all(|one| one.through >= revision)).await;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Asks again every 10 ms until `condition` answers.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(answer) = condition().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(answer) => answer,
        Err(_) => panic!("never: {what}"),
    }
}
