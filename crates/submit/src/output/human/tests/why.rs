//! What people are told of a job that waits.

use super::human;
use crate::output::Output;
use grange_broker_client::why::{HostSays, Place, Reason, Why};
use grange_protocol::facts::QueueFact;
use grange_protocol::name::Class;
use grange_protocol::record::State;
use grange_protocol::resource::ResourceRequest;
use grange_protocol::ticket::Priority;

fn says(agent: &str, answer: &'static str, text: &str) -> HostSays {
    HostSays { agent: agent.parse().unwrap(), age_ms: 900, answer, text: text.to_owned() }
}

fn waits(reason: Reason) -> Why {
    let queue = "default/normal/train/ann".to_owned();
    Why {
        owner: "ann".parse().unwrap(),
        job: "j-1".parse().unwrap(),
        state: State::Queued,
        reason,
        plugin: "train".parse().unwrap(),
        class: Class::plugin_default(),
        priority: Priority::Normal,
        resources: None,
        agent: None,
        due_ms: None,
        age_ms: Some(12_000),
        left_ms: None,
        place: Some(Place { queue, ahead: 2, waiting: 5, handed_out: false, open: true }),
        higher: Vec::new(),
        beside: Vec::new(),
        overview_age_ms: Some(100),
        running: Some(0),
        running_max: None,
        hosts: Vec::new(),
    }
}

fn shown(why: &Why) -> Vec<String> {
    let (mut human, out, _) = human();
    human.why(why).unwrap();
    out.take().lines().map(str::to_owned).collect()
}

#[test]
fn a_job_that_waits_says_what_matters_its_place_and_its_hosts() {
    let mut why = waits(Reason::NoRoom);
    why.left_ms = Some(48_000);
    why.resources = Some(ResourceRequest { gpus: 1, vram_mb: 8192, ..ResourceRequest::default() });
    let fact = |queue: &str, waiting| QueueFact { queue: queue.to_owned(), waiting, oldest_ms: 3_000 };
    why.higher = vec![fact("default:high:train:bob", 3), fact("any:urgent:train:eve", 1)];
    why.beside = vec![fact("default:normal:train:bob", 1)];
    why.hosts = vec![
        says("cpu1", "never", "needs 1 GPU(s), has none"),
        says("gpu1", "busy", "needs 8192 MiB of VRAM, 6100 MiB free, 2000 MiB held by idle `ocr`"),
        says("gpu10", "draining", "is draining"),
    ];
    assert_eq!(
        shown(&why),
        [
            "job j-1 waits for `train`: every host that can run it is busy",
            "  state     queued, for 12.0 s; it expires in 48.0 s",
            "  queue     default/normal/train/ann; position 3 of 5",
            "  asks for  1 GPU with 8.0 GiB, beyond what the plugin asks for",
            "  first go  3 high jobs of `bob` (oldest 3.0 s), 1 urgent job of `eve` (oldest 3.0 s)",
            "  in turns  1 normal job of `bob` (oldest 3.0 s)",
            "  gpu1   needs 8192 MiB of VRAM, 6100 MiB free, 2000 MiB held by idle `ocr`",
            "  gpu10  is draining",
            "  cpu1   needs 1 GPU(s), has none",
        ]
    );
}

#[test]
fn many_hosts_that_say_the_same_stand_together() {
    let mut why = waits(Reason::Nowhere);
    why.place = None;
    why.hosts = (0..9).map(|n| says(&format!("h{n}"), "not_installed", "does not have the plugin")).collect();
    why.hosts.push(says("x", "never", "needs zone=lab, has no `zone`"));
    assert_eq!(
        shown(&why)[2..],
        [
            "  x                  needs zone=lab, has no `zone`",
            "  h0, h1 and 7 more  does not have the plugin"
        ]
    );
}

#[test]
fn an_owner_at_the_cap_and_a_place_in_line_are_the_headline() {
    let mut full = waits(Reason::OwnerFull);
    (full.running, full.running_max) = (Some(4), Some(4));
    let lines = shown(&full);
    assert_eq!(lines[0], "job j-1 waits for `train`: `ann` has 4 running, and may have 4");
    assert!(lines.iter().any(|line| line.ends_with("`ann` has 4 running of 4 at most")), "{lines:?}");
    let first = &shown(&waits(Reason::InLine))[0];
    assert_eq!(first, "job j-1 waits for `train`: 2 jobs of the same queue go first");
}

#[test]
fn a_job_that_does_not_wait_says_where_it_is() {
    let mut runs = waits(Reason::Running);
    (runs.state, runs.agent) = (State::Running, Some("gpu1".parse().unwrap()));
    assert_eq!(shown(&runs), ["job j-1 does not wait: it is running on `gpu1`, submitted 12.0 s ago"]);
    let mut ended = waits(Reason::Ended);
    (ended.state, ended.age_ms) = (State::Cancelled, None);
    assert_eq!(shown(&ended), ["job j-1 does not wait: it is cancelled"]);
}
