//! What a housekeeper reads, and the one thing that it removes.

use crate::farm::{Farm, eventually, holder, lane};
use grange_broker_client::submit::{Submission, submit};
use grange_broker_client::topology::ensure_queue;
use grange_broker_client::upkeep::{
    Lying, clock_ms, queue_states, records, remove_ticket, stream_end, tickets,
};
use grange_protocol::lifecycle::{Claim, claim};
use grange_protocol::name::Owner;
use grange_protocol::ownership::Stored;
use grange_protocol::subject::{JobKey, Queue};
use grange_protocol::ticket::Ticket;
use std::time::Duration;

fn key(owner: &str, job: &str) -> JobKey {
    JobKey { owner: owner.parse().unwrap(), job: job.parse().unwrap() }
}

async fn send(farm: &Farm, key: &JobKey, max_wait: Option<Duration>) -> u64 {
    let submission = Submission {
        owner: key.owner.clone(),
        job: Some(key.job.clone()),
        lane: lane("echo"),
        ticket: Ticket::default(),
        max_wait,
    };
    submit(&farm.broker, &farm.ledger, submission).await.unwrap().sequence
}

async fn put(farm: &Farm, subject: &str, body: Vec<u8>) {
    farm.broker.jetstream().publish(subject.to_owned(), body.into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn all_queues_stand_in_one_listing() {
    let farm = Farm::start().await;
    assert!(queue_states(&farm.broker).await.unwrap().is_empty());
    let queue = |n: u32| Queue { lane: lane("echo"), owner: Owner::new(format!("o{n}")).unwrap() };
    for n in 0..300 {
        ensure_queue(&farm.broker, &queue(n)).await.unwrap();
    }
    for job in ["1", "2", "3"] {
        send(&farm, &key("o7", job), None).await;
    }
    let states = queue_states(&farm.broker).await.unwrap();
    assert_eq!(states.len(), 300, "more than a page");
    assert_eq!(states[&queue(7)].waiting, 3);
    assert_eq!((states[&queue(8)].waiting, states[&queue(8)].delivered), (0, 0));
}

#[tokio::test]
async fn tickets_are_walked_in_pages() {
    let farm = Farm::start().await;
    for n in 0..5 {
        send(&farm, &key(if n == 3 { "bob" } else { "alice" }, &n.to_string()), None).await;
    }
    let first = tickets(&farm.broker, None, 0, 3).await.unwrap();
    assert_eq!((first.found.len(), first.next, first.remaining), (3, 4, 2));
    let rest = tickets(&farm.broker, None, first.next, 3).await.unwrap();
    assert_eq!((rest.found.len(), rest.next, rest.remaining), (2, 6, 0));
    let none = tickets(&farm.broker, None, rest.next, 3).await.unwrap();
    assert_eq!((none.found.len(), none.next, none.remaining), (0, 6, 0));
    let bob = Queue { lane: lane("echo"), owner: Owner::new("bob").unwrap() };
    let his = tickets(&farm.broker, Some(&bob), 1, 3).await.unwrap();
    let [Lying::Ticket(ticket)] = &his.found[..] else { panic!("{his:?}") };
    assert_eq!((ticket.key.clone(), ticket.queue(), ticket.sequence), (key("bob", "3"), bob, 4));
    assert_eq!(ticket.base, Some(0));
    assert!(ticket.stored_ms > 1_600_000_000_000);
}

#[tokio::test]
async fn what_names_no_queue_is_told_with_its_beginning() {
    let farm = Farm::start().await;
    put(&farm, "grange.jobs.default.normal.echo.a,b.1", vec![b'x'; 2_000]).await;
    let page = tickets(&farm.broker, None, 0, 10).await.unwrap();
    let [Lying::Unreadable(unreadable)] = &page.found[..] else { panic!("{page:?}") };
    assert_eq!((unreadable.sequence, unreadable.excerpt.len()), (1, 512));
    assert!(unreadable.why.contains("owner `a,b`"), "{}", unreadable.why);
}

#[tokio::test]
async fn records_are_told_with_the_time_they_run_out() {
    let farm = Farm::start().await;
    let (new, waits, soon, held) =
        (key("alice", "new"), key("alice", "waits"), key("alice", "soon"), key("alice", "held"));
    send(&farm, &new, None).await;
    send(&farm, &waits, Some(Duration::from_secs(600))).await;
    send(&farm, &soon, Some(Duration::from_secs(1))).await;
    let wish = Claim { holder: holder("h1"), lease_s: 30, ahead: false, at_ms: 5 };
    let running = claim(None, &lane("echo"), 1, &wish).unwrap();
    farm.ledger.write(&held, 0, &running, None).await.unwrap();
    let keys = [new.clone(), waits.clone(), soon.clone(), held.clone()];
    let known = eventually("a marker", async || {
        let known = records(&farm.broker, &keys).await.unwrap();
        matches!(known[&soon].stored, Stored::Marker { .. }).then_some(known)
    })
    .await;
    assert!(matches!(known[&new].stored, Stored::Nothing));
    let Stored::Record { stored_ms, .. } = known[&waits].stored else { panic!("{known:?}") };
    assert_eq!(known[&waits].runs_out_ms, Some(stored_ms + 600_000));
    assert!(matches!(known[&held].stored, Stored::Record { .. }));
    assert_eq!(known[&held].runs_out_ms, None);
}

#[tokio::test]
async fn a_ticket_is_removed_once_or_twice() {
    let farm = Farm::start().await;
    let sequence = send(&farm, &key("alice", "1"), None).await;
    send(&farm, &key("alice", "2"), None).await;
    remove_ticket(&farm.broker, sequence).await.unwrap();
    remove_ticket(&farm.broker, sequence).await.unwrap();
    let left = tickets(&farm.broker, None, 0, 10).await.unwrap();
    assert_eq!(left.found.len(), 1);
}

#[tokio::test]
async fn the_broker_tells_its_time() {
    let farm = Farm::start().await;
    let first = clock_ms(&farm.broker).await.unwrap();
    assert!(first > 1_600_000_000_000);
    send(&farm, &key("alice", "1"), None).await;
    let sequence = send(&farm, &key("alice", "2"), None).await;
    remove_ticket(&farm.broker, sequence).await.unwrap();
    let end = stream_end(&farm.broker).await.unwrap();
    assert!(end.now_ms >= first && end.last_ticket == sequence, "{end:?}");
}
