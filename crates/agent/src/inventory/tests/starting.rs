//! The way from `start` to the looks.

use super::{Host, faults, gpu};
use crate::config::{Config, Flags};
use crate::inventory::{HostError, Inventory, Look, start};
use grange_fake_nvml::script::Script;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn config(text: &str) -> Config {
    Config::resolve(text, &BTreeMap::new(), &Flags::default(), "box").unwrap()
}

async fn next(inventory: &mut Inventory) -> Arc<Look> {
    let changed = tokio::time::timeout(Duration::from_secs(20), inventory.looks.changed()).await;
    changed.expect("a look in time").expect("the thread lives");
    inventory.looks.borrow_and_update().clone()
}

async fn until(inventory: &mut Inventory, is_so: impl Fn(&Look) -> bool) -> Arc<Look> {
    let found = tokio::time::timeout(Duration::from_secs(20), inventory.looks.wait_for(|look| is_so(look)));
    found.await.expect("in time").expect("the thread lives").clone()
}

#[tokio::test]
async fn the_gpus_are_there_when_start_returns() {
    let host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let inventory = start(&host.config(""), "box", crate::clock::boot_ms()).await.unwrap();
    let look = inventory.looks.borrow().clone();
    assert_eq!(faults(&look), [None]);
    assert!(look.reading.taken_at < 20_000);
}

#[tokio::test]
async fn a_look_that_is_wanted_begins_afterwards_and_one_that_is_not_takes_its_time() {
    let host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let began = crate::clock::boot_ms();
    let mut inventory = start(&host.config(""), "box", began).await.unwrap();
    inventory.looks.borrow_and_update();
    let begun = Instant::now();
    for used in 1..5 {
        host.change(|script| script.gpus[0].unowned_mb = used);
        let wanted = crate::clock::boot_ms() - began;
        inventory.look();
        let look = next(&mut inventory).await;
        assert!(look.reading.taken_at >= wanted && look.reading.devices[0].used_mb == used);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "at once: {:?}", begun.elapsed());
    let begun = Instant::now();
    next(&mut inventory).await;
    assert!(begun.elapsed() > Duration::from_secs(1), "nobody wanted one: {:?}", begun.elapsed());
    inventory.watch(BTreeMap::new(), true);
    next(&mut inventory).await;
    let begun = Instant::now();
    for _ in 0..4 {
        next(&mut inventory).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "closely: {:?}", begun.elapsed());
}

#[tokio::test]
async fn nothing_waits_for_a_library_that_hangs() {
    let host = Host::with(vec![gpu("GPU-a", 1_000)]);
    host.change(|script| script.hang = vec!["nvmlInit_v2".into()]);
    let begun = Instant::now();
    let mut inventory = start(&host.config("[gpu]\nnvml_timeout_ms = 1000"), "box", 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    assert!(
        inventory.looks.borrow().reading.devices.is_empty() && inventory.looks.borrow().reading.ram_mb > 0
    );
    until(&mut inventory, |look| !look.notices.is_empty()).await;
    let begun = Instant::now();
    inventory.look();
    inventory.retry(None);
    inventory.watch(BTreeMap::new(), true);
    assert!(begun.elapsed() < Duration::from_millis(50), "the house never waits");
    host.change(|script| script.hang.clear());
    inventory.retry(Some("GPU-a"));
    until(&mut inventory, |look| look.reading.devices.len() == 1).await;
}

#[tokio::test]
async fn another_try_is_a_look_at_once() {
    let host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let mut inventory = start(&host.config(""), "box", 0).await.unwrap();
    host.xid(0, 79);
    inventory.look();
    until(&mut inventory, |look| look.reading.devices[0].fault.is_some()).await;
    assert_eq!(inventory.looks.borrow().retries, 0);
    assert_eq!(inventory.retry(Some("GPU-a")), 1);
    until(&mut inventory, |look| look.reading.devices[0].fault.is_none() || look.retries == 1).await;
    let look = inventory.looks.borrow().clone();
    assert_eq!((look.reading.devices[0].fault.as_deref(), look.retries), (None, 1));
}

#[tokio::test]
async fn the_looking_ends_with_its_handle() {
    let host = Host::with(vec![gpu("GPU-a", 1_000)]);
    let inventory = start(&host.config(""), "box", 0).await.unwrap();
    let mut looks = inventory.looks.clone();
    drop(inventory);
    let ends = async { while looks.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), ends).await.expect("the thread leaves");
}

#[tokio::test]
async fn a_host_without_nvml_is_normal_and_one_whose_driver_comes_late_is_too() {
    let none = config("[inventory]\nnvml_library = \"/nonexistent/libnvidia-ml.so.1\"");
    let inventory = start(&none, "box", 0).await.unwrap();
    let look = inventory.looks.borrow().clone();
    assert!(look.reading.devices.is_empty() && look.notices.is_empty() && look.reading.driver.is_empty());
    assert!(look.capacity.cpus >= 1 && look.capacity.ram_mb > 0);
    let host = Host::with(Vec::new());
    host.set(&Script { init: 9, gpus: vec![gpu("GPU-a", 1_000)], ..Script::default() });
    let mut inventory = start(&host.config(""), "box", 0).await.unwrap();
    assert!(
        inventory.looks.borrow().reading.devices.is_empty() && inventory.looks.borrow().notices.is_empty()
    );
    host.change(|script| script.init = 0);
    inventory.retry(None);
    until(&mut inventory, |look| look.reading.devices.len() == 1).await;
}

#[tokio::test]
async fn a_fixed_inventory_takes_the_place_of_what_is_measured() {
    let text = "[inventory]\ncpus = 7\nram_mb = 5000\n\
        [[inventory.gpu]]\nuuid = \"GPU-x\"\nname = \"NVIDIA X\"\nvram_mb = 24000\ncompute = \"8.6\"\nlinks = [\"GPU-y\"]\n\
        [[inventory.gpu]]\nuuid = \"GPU-y\"\nvram_mb = 16000\n";
    let inventory = start(&config(text), "box", 0).await.unwrap();
    let look = inventory.looks.borrow().clone();
    assert_eq!((look.reading.cpus, look.reading.ram_mb, look.reading.ram_other_mb), (7, 5_000, 0));
    let (x, y) = (&look.reading.devices[0], &look.reading.devices[1]);
    assert_eq!((x.uuid.as_str(), x.name.as_str(), x.compute.as_str()), ("GPU-x", "NVIDIA X", "8.6"));
    assert_eq!((x.total_mb, x.used_mb, x.attributed, x.fault.as_deref()), (24_000, 0, false, None));
    assert_eq!((x.links.as_slice(), y.total_mb, y.links.len()), (&["GPU-y".to_owned()][..], 16_000, 0));
    assert_eq!((look.capacity.gpus[1].vram_free_mb, look.capacity.ram_free_mb), (16_000, 5_000));
}

#[tokio::test]
async fn a_reserve_that_is_larger_than_the_host_is_refused_with_both_amounts() {
    let refused = async |reserve: &str| {
        let text = format!("[reserve]\n{reserve}\n[inventory]\ncpus = 4\nram_mb = 5000");
        start(&config(&text), "box", 0).await.err().map(|error| error.to_string())
    };
    let said = refused("ram_mb = 6000").await;
    assert_eq!(said.as_deref(), Some("`reserve.ram_mb` is 6000, but this host has 5000; keep less back"));
    let said = refused("cpus = 5").await;
    assert_eq!(said.as_deref(), Some("`reserve.cpus` is 5, but this host has 4; keep less back"));
    assert_eq!(refused("cpus = 4\nram_mb = 5000").await, None);
    let measured = start(&config("[reserve]\nram_mb = 999999999999"), "box", 0).await.err();
    assert!(matches!(
        measured,
        Some(HostError::ReserveTooLarge { key: "ram_mb", reserved: 999_999_999_999, .. })
    ));
}

#[tokio::test]
async fn a_gpu_that_is_kept_back_whole_is_said() {
    let host = Host::with(vec![gpu("GPU-a", 1_000), gpu("GPU-b", 9_000)]);
    let inventory = start(&host.config("[reserve]\nvram_mb = 1000"), "box", 0).await.unwrap();
    let notices = inventory.looks.borrow().notices.clone();
    assert_eq!(
        notices,
        ["nothing of GPU `GPU-a` can be given: `reserve.vram_mb` is 1000 and it has 1000 MiB"]
    );
}
