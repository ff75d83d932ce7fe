use super::*;
use proptest::prelude::*;

fn gpu(uuid: &str, name: &str, usable_mb: u64, free_mb: i64) -> Device {
    let (uuid, name) = (uuid.to_owned(), name.to_owned());
    Device { uuid, name, compute: "8.0".into(), usable_mb, free_mb, ..Device::default() }
}

fn host(devices: Vec<Device>) -> Room {
    Room {
        devices,
        ram_mb: 32_000,
        ram_usable_mb: 64_000,
        cpus: 8,
        cpus_usable: 16,
        driver: "550.54".into(),
        labels: [("zone".to_owned(), "lab".to_owned())].into(),
    }
}

fn asks(text: &str) -> Need {
    Need::from(serde_json::from_str::<ResourceRequest>(text).unwrap())
}

fn said(need: &Need, room: &Room) -> String {
    place(need, room).unwrap_err().to_string()
}

#[test]
fn the_smallest_gap_that_fits_is_taken() {
    let room = host(vec![
        gpu("a", "A100", 80_000, 80_000),
        gpu("b", "A100", 80_000, 9_000),
        gpu("c", "A100", 80_000, 4_000),
    ]);
    assert_eq!(place(&asks(r#"{"vram_mb":8192}"#), &room).unwrap().devices, [1]);
    assert_eq!(place(&asks(r#"{"vram_mb":9001}"#), &room).unwrap().devices, [0]);
}

#[test]
fn what_is_missing_is_said_with_both_amounts() {
    let room = host(vec![gpu("a", "A100", 80_000, 6_100)]);
    assert_eq!(said(&asks(r#"{"vram_mb":8192}"#), &room), "needs 8192 MiB of VRAM, 6100 MiB free");
    let never = place(&asks(r#"{"vram_mb":90000}"#), &room).unwrap_err();
    assert_eq!(never.to_string(), "needs 90000 MiB of VRAM, has 80000 MiB at most");
    assert!(never.is_lasting());
    assert_eq!(said(&asks(r#"{"gpus":2}"#), &room), "needs 2 GPU(s), 1 of its 1 could do");
    assert_eq!(said(&asks(r#"{"gpus":1}"#), &host(vec![])), "needs 1 GPU(s), has none");
    assert_eq!(said(&asks(r#"{"ram_mb":40000}"#), &room), "needs 40000 MiB of memory, 32000 MiB free");
    assert_eq!(said(&asks(r#"{"cpus":17}"#), &room), "needs 17 cores, has 16 at most");
    assert_eq!(said(&asks(r#"{"on":{"zone":"attic"}}"#), &room), "needs zone=attic, has zone=lab");
    assert_eq!(said(&asks(r#"{"on":{"rack":"1"}}"#), &room), "needs rack=1, has no `rack`");
    assert_eq!(said(&asks(r#"{"on":{"driver":"560"}}"#), &room), "needs driver=560, has driver=550.54");
}

#[test]
fn models_are_found_as_people_write_them() {
    let room = host(vec![
        gpu("a", "NVIDIA A100-SXM4-80GB", 80_000, 80_000),
        gpu("b", "NVIDIA H100 PCIe", 80_000, 80_000),
    ]);
    for (wanted, place_is) in [("a100", 0), ("A100-80GB", 0), ("h100", 1)] {
        let need = asks(&format!(r#"{{"gpus":1,"on":{{"gpu":"{wanted}"}}}}"#));
        assert_eq!(place(&need, &room).unwrap().devices, [place_is], "{wanted}");
    }
    assert!(place(&asks(r#"{"gpus":1,"on":{"gpu":"a10"}}"#), &room).is_err(), "an A10 is no A100");
    assert!(place(&asks(r#"{"gpus":1,"on":{"compute":"9.0"}}"#), &room).is_err());
}

#[test]
fn alone_means_alone() {
    let mut room = host(vec![gpu("a", "T4", 15_000, 14_000)]);
    room.devices[0].shares = 1;
    assert_eq!(place(&asks(r#"{"exclusive":true,"vram_mb":1000}"#), &room), Err(Lack::Shared));
    assert!(place(&asks(r#"{"gpus":1}"#), &room).is_err(), "an unknown need takes a whole GPU");
    assert!(place(&asks(r#"{"vram_mb":1000}"#), &room).is_ok());
    room.devices[0].exclusive = true;
    assert_eq!(place(&asks(r#"{"vram_mb":1000}"#), &room), Err(Lack::Shared));
}

#[test]
fn a_quarantined_gpu_is_named() {
    let mut room = host(vec![gpu("a", "T4", 15_000, 15_000)]);
    room.devices[0].quarantine = Some("XID 79".into());
    let lack = place(&asks(r#"{"vram_mb":1000}"#), &room).unwrap_err();
    assert_eq!(lack.to_string(), "GPU `a` is quarantined: XID 79");
    assert!(!lack.is_lasting());
}

#[test]
fn a_card_serves_the_class_that_it_is_sold_as() {
    let class = crate::class::read(&crate::name::Class::new("g1+v24").unwrap()).unwrap();
    let crate::class::Meaning::Asks(asks) = class else { panic!("{class:?}") };
    let need = Need { request: asks.upto, over: asks.over };
    let card = |free| host(vec![gpu("a", "RTX 4090", 24_564, free)]);
    assert_eq!(place(&need, &card(24_564)).unwrap().vram_mb, 24_564);
    assert!(place(&need, &card(24_000)).is_err());
    assert!(
        place(&need, &host(vec![gpu("a", "T4", 16_000, 16_000)])).is_err(),
        "the step below is too small"
    );
}

#[test]
fn linked_gpus_go_together() {
    let mut devices: Vec<Device> = ["a", "b", "c", "d"].map(|uuid| gpu(uuid, "V100", 16_000, 16_000)).into();
    for (one, other) in [(0, 2), (1, 3)] {
        let uuids = (devices[one].uuid.clone(), devices[other].uuid.clone());
        devices[one].links.push(uuids.1);
        devices[other].links.push(uuids.0);
    }
    let mut room = host(devices);
    assert_eq!(place(&asks(r#"{"gpus":2}"#), &room).unwrap().devices, [0, 2]);
    room.devices[0].shares = 1;
    assert_eq!(place(&asks(r#"{"gpus":2}"#), &room).unwrap().devices, [1, 3]);
}

proptest! {
    #[test]
    fn what_is_placed_fits_and_what_is_not_does_not(
        frees in proptest::collection::vec((0u64..20_000, 0i64..20_000, any::<bool>(), 0u32..2), 0..6),
        gpus in 0u32..4, vram_mb in 0u64..20_000, exclusive: bool,
    ) {
        let devices = frees.iter().enumerate().map(|(i, (usable, free, exclusive, shares))| Device {
            exclusive: *exclusive,
            shares: *shares,
            ..gpu(&i.to_string(), "T4", *usable, (*free).min(i64::try_from(*usable).unwrap()))
        });
        let room = host(devices.collect());
        let request = ResourceRequest { gpus, vram_mb, exclusive, ..ResourceRequest::default() };
        let alone = exclusive || vram_mb == 0;
        let open = |d: &Device| {
            let needed = if vram_mb == 0 { d.usable_mb.max(1) } else { vram_mb };
            !d.exclusive && (!alone || d.shares == 0) && i64::try_from(needed).unwrap() <= d.free_mb
                && needed <= d.usable_mb
        };
        let there = room.devices.iter().filter(|d| open(d)).count();
        match place(&Need::from(request), &room) {
            Ok(placement) => {
                prop_assert_eq!(placement.devices.len(), gpus as usize);
                prop_assert!(placement.devices.iter().all(|i| open(&room.devices[*i])));
                let mut distinct = placement.devices.clone();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), placement.devices.len());
            }
            Err(_) => prop_assert!(there < gpus as usize),
        }
    }
}
