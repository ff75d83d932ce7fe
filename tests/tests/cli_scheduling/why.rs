//! Why a job waits.

use super::{BARE, NOT_FOUND, SMALL, begun, eventually_shows, gates, host, submitted};
use grange_tests::{Farm, plugin};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn why_says_what_matters_most_and_what_each_host_says() {
    let farm = Farm::start().await;
    let grange = farm.grange("alice");
    let job = submitted(&grange, &["reader"]).await;
    let alone = grange.run(&["why", &job]).await.ends(0).out;
    assert!(alone.starts_with(&format!("job {job} waits for `reader`: no agent is there\n")), "{alone}");
    assert!(alone.contains("default/normal/reader/alice; position 1 of 1"), "{alone}");
    let small = [("reader", json!({"gpus": 1, "vram_mb": 12_000}))];
    let _small = host(&farm, "h1", SMALL, &[gates(&farm, "p1", &small)]).await;
    let _bare = host(&farm, "h2", BARE, &[gates(&farm, "p2", &small)]).await;
    let _other = host(&farm, "h3", SMALL, &[plugin("gate")]).await;
    let mut shown = String::new();
    eventually_shows(&grange, &["why", &job], "h3", &mut shown).await;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with(&format!("job {job} waits for `reader`: no host ")), "{shown}");
    for line in [
        "  h1  needs 12000 MiB of VRAM, has 8192 MiB at most",
        "  h2  needs 1 GPU(s), has none",
        "  h3  does not have the plugin",
    ] {
        assert!(lines.contains(&line), "{line}: {shown}");
    }
    let json = grange.run(&["why", &job, "--output", "json"]).await.ends(0).json();
    assert_eq!(
        (&json["reason"], &json["state"], &json["place"]["ahead"]),
        (&json!("nowhere"), &json!("queued"), &json!(0))
    );
    let hosts = json["hosts"].as_array().expect("an array");
    let answers: Vec<&str> = hosts.iter().filter_map(|host| host["answer"].as_str()).collect();
    assert_eq!(answers, ["never", "never", "not_installed"], "{json}");
    assert_eq!(grange.run(&["why", &job, "--output", "quiet"]).await.ends(0).word(), "nowhere");
    grange.run(&["why", "nothing-like-it"]).await.fails(NOT_FOUND, &["no job"]);
    grange.run(&["cancel", &job]).await.ends(0);
    let ended = grange.run(&["why", &job]).await.ends(0).word();
    assert_eq!(ended, format!("job {job} does not wait: it is cancelled"));
}

#[tokio::test]
async fn why_tells_a_busy_worker_from_an_idle_one_and_from_a_place_in_line() {
    let farm = Farm::start().await;
    let both = [("ocr", json!({"gpus": 1, "vram_mb": 2000})), ("train", json!({"gpus": 1, "vram_mb": 7000}))];
    let mut agent = host(&farm, "h1", SMALL, &[gates(&farm, "plugins", &both)]).await;
    let grange = farm.grange("alice");
    let running = begun(&farm, &grange, "ocr", "first").await;
    let told = grange.run(&["why", &running]).await.ends(0).word();
    assert!(
        told.starts_with(&format!("job {running} does not wait: it is running on `h1`, submitted ")),
        "{told}"
    );
    // A busy worker is in the way; nobody ends it.
    let train = submitted(&grange, &["train"]).await;
    let mut shown = String::new();
    eventually_shows(&grange, &["why", &train], "h1  needs 7000 MiB of VRAM, 6192 MiB free\n", &mut shown)
        .await;
    assert!(shown.contains("every host that can run it is busy"), "{shown}");
    // Three wait for the one place of `ocr`; this is the third.
    let mut line = Vec::new();
    for _ in 0..5 {
        line.push(submitted(&grange, &["ocr"]).await);
    }
    eventually_shows(&grange, &["why", &line[2]], "position 3 of 5\n", &mut shown).await;
    assert!(shown.contains("h1  all its 1 places are taken"), "{shown}");
    let high = grange.run(&["priority", &line[4], "high"]).await.ends(0);
    assert!(high.out.contains("priority high now"), "{high:#?}");
    eventually_shows(&grange, &["why", &line[2], "--output", "json"], "default:high:ocr:alice", &mut shown)
        .await;
    let told = grange.run(&["why", &line[2]]).await.ends(0).out;
    assert!(told.contains("first go  1 high job of `alice`") && told.contains("position 3 of 4"), "{told}");
    agent.signal(Signal::TERM);
    eventually_shows(&grange, &["why", &train], "h1  is draining", &mut shown).await;
    eventually_shows(&grange, &["agents", "--output", "json"], "\"state\":\"draining\"", &mut shown).await;
    fs::write(farm.path("open"), "").expect("a file");
    agent.wait(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn why_names_the_idle_workers_that_hold_what_is_short_and_the_owners_limit() {
    let farm = Farm::start().await;
    let reads = |vram_mb: u32| json!({"gpus": 1, "vram_mb": vram_mb});
    let three = [("long", reads(3000)), ("ocr", reads(2000)), ("train", reads(6000))];
    let config = format!("{SMALL}[limits]\nowner_running_max = 1\n");
    let _agent = host(&farm, "h1", &config, &[gates(&farm, "plugins", &three)]).await;
    let (alice, bob) = (farm.grange("alice"), farm.grange("bob"));
    bob.run(&["submit", "ocr"]).await.ends(0);
    begun(&farm, &alice, "long", "first").await;
    let train = submitted(&bob, &["train"]).await;
    let idle = "h1  needs 6000 MiB of VRAM, 3192 MiB free, 2000 MiB held by idle `ocr`\n";
    let mut shown = String::new();
    eventually_shows(&bob, &["why", &train], idle, &mut shown).await;
    let second = submitted(&alice, &["ocr"]).await;
    let limit = format!("job {second} waits for `ocr`: `alice` has 1 running, and may have 1\n");
    eventually_shows(&alice, &["why", &second], &limit, &mut shown).await;
    fs::write(farm.path("open"), "").expect("a file");
    for job in [&train, &second] {
        alice.run(&["result", job, "--wait"]).await.ends(0);
    }
}
