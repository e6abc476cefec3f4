//! What go-control-plane tests of a stream, and what it does not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use muster::envoy::ResourceType::{self, Clusters, Endpoints, Listeners, Routes};
use muster::envoy::xds::AckKind;
use tonic::Code;

use super::client::{Ads, Client, connect, endpoint, node, request};
use super::leader::{Leader, eventually};
use super::roster::{numbered, published};

const ASKED: [(ResourceType, &[&str]); 4] =
    [(Clusters, &[]), (Endpoints, &["nginx"]), (Listeners, &[]), (Routes, &["edge"])];

async fn leader(endpoints: u8, applied: i64) -> Leader {
    Leader::start(Some(published(&numbered(endpoints), applied))).await
}

async fn settled(leader: &Leader, applied: i64) -> Client {
    let mut client = Client::open(leader.address).await.unwrap();
    client.take(Endpoints, &["nginx"]).await;
    leader.through_reaches(applied).await;
    client
}

/// TestAggregatedHandlers
#[tokio::test]
async fn every_kind_is_answered_on_one_stream() {
    let leader = leader(3, 7).await;
    let mut client = Client::open(leader.address).await.unwrap();
    let status = &leader.streams_when(|list| list.len() == 1).await[0];
    assert_eq!((status.through, &status.envoy), (0, &None), "a stream counts from its opening");
    for (kind, names) in ASKED {
        let push = client.take(kind, names).await;
        let beside = match kind {
            Clusters => 2,
            Listeners => 1,
            Endpoints | Routes => 0,
        };
        assert_eq!(push.resources.len(), 1 + beside, "{kind:?}");
    }
    leader.through_reaches(7).await;
    let status = &leader.streams.list()[0];
    assert_eq!(status.envoy.as_deref(), Some("envoy-1"));
    assert_eq!(status.digest.as_deref(), Some(published(&numbered(3), 7).snapshot.digest()));
    eventually("four ACKs", async || (leader.counts.of(AckKind::Ack) == 4).then_some(())).await;
    assert_eq!(leader.counts.pushes.load(Ordering::SeqCst), 4);
    assert_eq!(leader.counts.timed.load(Ordering::SeqCst), 4);
}

/// TestAggregateRequestType
#[tokio::test]
async fn a_request_without_a_type_ends_the_stream() {
    let leader = leader(1, 1).await;
    let mut client = Client::open(leader.address).await.unwrap();
    client.send(DiscoveryRequest { node: Some(node("envoy-1")), ..Default::default() }).await;
    assert_eq!(client.end().await, Some(Code::InvalidArgument));
    leader.streams_when(<[_]>::is_empty).await;
}

#[tokio::test]
async fn an_unknown_kind_leaves_the_stream_as_it_is() {
    let leader = leader(1, 1).await;
    let mut client = Client::open(leader.address).await.unwrap();
    for type_url in ["type.googleapis.com/envoy.api.v2.Cluster", "nonsense", "type.googleapis.com/x.Secret"] {
        client.send(DiscoveryRequest { type_url: type_url.to_owned(), ..request(Clusters, &[], "") }).await;
    }
    client.nothing_before(Clusters, &[]).await;
    assert_eq!(leader.counts.unknown.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_stream_says_who_it_is_first_and_properly() {
    let leader = leader(1, 1).await;
    let nodes = [None, Some(node("")), Some(node("two words")), Some(node(&"x".repeat(65)))];
    for node in nodes {
        let mut client = Client::open(leader.address).await.unwrap();
        client.send(DiscoveryRequest { node, ..request(Clusters, &[], "") }).await;
        assert_eq!(client.end().await, Some(Code::InvalidArgument));
    }
    // Only the first time: Envoy leaves it out of later requests when told so.
    let mut client = Client::open(leader.address).await.unwrap();
    client.take(Clusters, &[]).await;
    client.send(DiscoveryRequest { node: None, ..request(Endpoints, &["nginx"], "") }).await;
    client.pushed(Endpoints).await;
}

#[tokio::test]
async fn a_stream_that_never_says_who_it_is_does_not_stay() {
    let at_once = Duration::from_millis(1);
    let published = published(&numbered(1), 1);
    let leader =
        Leader::start_with(Some(published), |server| server.with_first_request_within(at_once)).await;
    let mut client = Client::open(leader.address).await.unwrap();
    assert_eq!(client.end().await, Some(Code::DeadlineExceeded));
    leader.streams_when(<[_]>::is_empty).await;
}

/// TestStaleNonce
#[tokio::test]
async fn a_stale_nonce_is_ignored() {
    let leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    leader.publish(published(&numbered(2), 2));
    let push = client.pushed(Endpoints).await;
    client.send(request(Endpoints, &[], "1")).await;
    client.send(request(Endpoints, &["nginx"], "99")).await;
    client.nothing_before(Clusters, &[]).await;
    assert_eq!(leader.counts.of(AckKind::Stale), 2);
    client.ack(&["nginx"], &push).await;
    // The clusters asked for above make the endpoints due again.
    let again = client.pushed(Endpoints).await;
    client.ack(&["nginx"], &again).await;
    leader.through_reaches(2).await;
}

/// DropStaleResponseAfterUnsubscribe
#[tokio::test]
async fn nothing_is_sent_for_a_dropped_subscription() {
    let leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    client.send(request(Endpoints, &[], "1")).await;
    client.nothing_before(Listeners, &[]).await;
    leader.publish(published(&numbered(2), 2));
    client.nothing_before(Routes, &["edge"]).await;
    assert_eq!(leader.streams.list()[0].through, 1, "who does not listen acknowledges nothing");
    client.send(request(Endpoints, &["nginx"], "1")).await;
    let push = client.pushed(Endpoints).await;
    assert_eq!(push.version_info, published(&numbered(2), 2).snapshot.digest());
}

#[tokio::test]
async fn a_rejection_is_recorded_and_not_repeated() {
    let leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    leader.publish(published(&numbered(2), 2));
    let push = client.pushed(Endpoints).await;
    client.nack(&["nginx"], &push).await;
    // The same again under a later revision is still no change.
    leader.publish(published(&numbered(2), 3));
    client.nothing_before(Listeners, &[]).await;
    let status = &leader.streams.list()[0];
    let rejection = status.last_rejection.as_ref().expect("it is recorded");
    assert_eq!((rejection.kind, rejection.detail.as_str()), (Endpoints, "it is wrong"));
    assert_eq!(status.through, 1);
    assert_eq!(leader.counts.of(AckKind::Nack), 1);

    leader.publish(published(&numbered(3), 4));
    let push = client.pushed(Endpoints).await;
    client.ack(&["nginx"], &push).await;
    leader.through_reaches(4).await;
}

#[tokio::test]
async fn equal_rosters_make_equal_answers_and_a_reconnect_is_always_answered() {
    let (one, other) = (leader(5, 10).await, leader(5, 12).await);
    let mut before = Vec::new();
    let mut client = Client::open(one.address).await.unwrap();
    for (kind, names) in ASKED {
        before.push(client.take(kind, names).await);
    }
    one.through_reaches(10).await;
    one.demote();
    assert_eq!(client.end().await, Some(Code::Unavailable));

    let mut client = Client::open(other.address).await.unwrap();
    for ((kind, names), before) in ASKED.into_iter().zip(before) {
        let version_info = before.version_info.clone();
        client.send(DiscoveryRequest { version_info, ..request(kind, names, "") }).await;
        let push = client.pushed(kind).await;
        client.ack(names, &push).await;
        assert_eq!((push.version_info, push.resources), (before.version_info, before.resources), "{kind:?}");
    }
    other.through_reaches(12).await;
}

#[tokio::test]
async fn followers_refuse_at_once_and_the_connection_stays() {
    let follower = Leader::start(None).await;
    let ads = connect(follower.address).await;
    for _ in 0..3 {
        let refused = Client::open_on(ads.clone()).await.err().map(|status| status.code());
        assert_eq!(refused, Some(Code::Unavailable));
    }
    assert_eq!(follower.counts.refused.load(Ordering::SeqCst), 3);
    follower.publish(published(&numbered(1), 1));
    let mut client = Client::open_on(ads).await.unwrap();
    client.take(Clusters, &[]).await;
}

/// TestSnapshotClear
#[tokio::test]
async fn demotion_ends_every_stream() {
    let leader = leader(1, 1).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(settled(&leader, 1).await);
    }
    let unnamed = Client::open(leader.address).await.unwrap();
    clients.push(unnamed);
    leader.streams_when(|list| list.len() == 6).await;
    leader.demote();
    for mut client in clients {
        assert_eq!(client.end().await, Some(Code::Unavailable));
    }
    leader.streams_when(<[_]>::is_empty).await;
}

#[tokio::test]
async fn nothing_is_sent_after_the_lease_by_the_own_clock() {
    let leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    leader.holds.store(false, Ordering::SeqCst);
    leader.publish(published(&numbered(2), 2));
    assert_eq!(client.end().await, Some(Code::Unavailable));
    let refused = Client::open(leader.address).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
}

/// TestServerShutdown
#[tokio::test]
async fn the_end_of_the_agent_ends_the_streams() {
    let mut leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    leader.forget();
    assert_eq!(client.end().await, Some(Code::Unavailable));
}

/// TestCancellations
#[tokio::test]
async fn streams_of_clients_that_are_gone_are_gone() {
    let leader = leader(1, 1).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(settled(&leader, 1).await);
    }
    assert_eq!(leader.streams.list().len(), 20, "two streams of one id both count");
    let mut leaving = clients.pop().unwrap();
    leaving.half_close();
    assert_eq!(leaving.end().await, None);
    drop(clients);
    leader.streams_when(<[_]>::is_empty).await;
}

/// TestConcurrentSetWatch
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_and_streams_at_once_come_to_rest() {
    let leader = leader(1, 1).await;
    let mut reading = tokio::task::JoinSet::new();
    let last = published(&numbered(9), 1_000);
    for _ in 0..8 {
        let (address, wanted) = (leader.address, last.snapshot.digest().to_owned());
        reading.spawn(async move {
            let mut client = Client::open(address).await.unwrap();
            client.ask(Endpoints, &["nginx"]).await;
            loop {
                let push = client.pushed(Endpoints).await;
                client.ack(&["nginx"], &push).await;
                if push.version_info == wanted {
                    return client;
                }
            }
        });
    }
    for applied in 2..200 {
        leader.publish(published(&numbered((applied % 7) as u8), applied));
        tokio::task::yield_now().await;
    }
    leader.publish(last);
    let _clients = reading.join_all().await;
    leader.streams_when(|list| list.len() == 8 && list.iter().all(|one| one.through == 1_000)).await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_costs_one_push_however_much_changes() {
    let leader = leader(1, 1).await;
    let mut client = settled(&leader, 1).await;
    for applied in 2..100 {
        leader.publish(published(&numbered(applied as u8), applied));
        tokio::task::yield_now().await;
    }
    leader.publish(published(&numbered(250), 100));
    let stuck = client.pushed(Endpoints).await;
    let pushes = leader.counts.pushes.load(Ordering::SeqCst);
    assert_eq!(pushes, 2, "the first, and one that waits for its ACK");
    client.ack(&["nginx"], &stuck).await;
    let push = client.pushed(Endpoints).await;
    assert_eq!(push.version_info, published(&numbered(250), 1).snapshot.digest());
    client.ack(&["nginx"], &push).await;
    leader.through_reaches(100).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_back_only_itself() {
    let leader = leader(200, 1).await;
    let narrow = endpoint(leader.address).initial_stream_window_size(16).initial_connection_window_size(16);
    let mut stuck = Client::open_on(Ads::new(narrow.connect().await.unwrap())).await.unwrap();
    for (kind, names) in ASKED {
        stuck.ask(kind, names).await;
    }
    eventually("a push that gets stuck", async || {
        (leader.counts.pushes.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let mut other = Client::open(leader.address).await.unwrap();
    other.take(Endpoints, &["nginx"]).await;
    for applied in 2..50 {
        leader.publish(published(&numbered(applied as u8), applied));
        let push = other.pushed(Endpoints).await;
        other.ack(&["nginx"], &push).await;
        let others = 1 + usize::try_from(applied - 1).unwrap();
        let pushes = leader.counts.pushes.load(Ordering::SeqCst);
        assert!(pushes <= others + ASKED.len(), "{pushes} pushes, {others} of them to the other");
    }
    // What was on its way arrives; nothing made later follows.
    leader.demote();
    assert_eq!(other.end().await, Some(Code::Unavailable));
    assert_eq!(stuck.last().await, Some(Code::Unavailable));
    leader.streams_when(<[_]>::is_empty).await;
}

#[tokio::test]
async fn through_needs_no_push_when_the_endpoints_are_the_same() {
    let leader = leader(2, 1).await;
    let _client = settled(&leader, 1).await;
    leader.publish(published(&numbered(2), 50));
    leader.through_reaches(50).await;
    assert_eq!(leader.counts.pushes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn oversized_requests_end_their_stream_only() {
    let leader = leader(1, 1).await;
    let mut patient = settled(&leader, 1).await;

    let mut many = Client::open(leader.address).await.unwrap();
    let names: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    many.send(DiscoveryRequest { resource_names: names, ..request(Endpoints, &[], "") }).await;
    assert_eq!(many.end().await, Some(Code::ResourceExhausted));

    let mut huge = Client::open(leader.address).await.unwrap();
    let version_info = "v".repeat(5 * 1024 * 1024);
    huge.send(DiscoveryRequest { version_info, ..request(Clusters, &[], "") }).await;
    assert_eq!(huge.end().await, Some(Code::OutOfRange));

    patient.nothing_before(Clusters, &[]).await;
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let leader = leader(1, 1).await;
    let ads = connect(leader.address).await;
    let mut open = Vec::new();
    let refused = loop {
        match Client::open_on(ads.clone()).await {
            Ok(client) => open.push(client),
            Err(status) => break status,
        }
        assert!(open.len() < 1_000);
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(leader.streams.list().len(), open.len());
    open.pop();
    leader.streams_when(|list| list.len() == open.len()).await;
    Client::open_on(ads).await.map(drop).unwrap();
}

#[tokio::test]
async fn delta_is_not_spoken_here() {
    let leader = leader(1, 1).await;
    let mut ads = connect(leader.address).await;
    let requests = tokio_stream::iter([DeltaDiscoveryRequest::default()]);
    let refused = ads.delta_aggregated_resources(requests).await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unimplemented));
}

#[tokio::test]
async fn what_is_not_http2_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let leader = leader(1, 1).await;
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(), tls_hello, &[0; 4096]] {
        let mut socket = tokio::net::TcpStream::connect(leader.address).await.unwrap();
        let _ = socket.write_all(bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
    }
    endpoint(leader.address).connect().await.unwrap();
    settled(&leader, 1).await;
}
