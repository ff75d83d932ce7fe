//! Every device that was ever seen in this life, what was told of it last, and what is wrong with it. Pure.
//!
//! A fault stands until somebody wants another try: what comes back by itself has not been looked at by anybody.

use super::notices::Notices;
use super::told::{Answer, Device, Library, Round, Trouble};
use super::xid::{Class, class};
use std::collections::BTreeSet;

/// Rounds that may fail in a row before it is a fault: an error may pass.
const FAILURES: u32 = 3;
/// Longest name of a model, bytes.
const NAME_BYTES: usize = 96;

/// One device.
#[derive(Debug)]
pub(super) struct Known {
    /// The GPU's number in NVML; slices have their GPU's.
    index: u32,
    /// What was told last, made plausible.
    pub(super) device: Device,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
    failures: u32,
    is_there: bool,
}

impl Known {
    fn fails(&mut self, why: &str) {
        if self.fault.is_none() {
            tracing::error!(gpu = self.device.uuid, why, "GPU out of service");
            self.fault = Some(why.to_owned());
        }
    }

    fn failed(&mut self, why: &str) {
        self.is_there = true;
        self.failures += 1;
        tracing::warn!(gpu = self.device.uuid, why, failures = self.failures, "NVML failed");
        if self.failures >= FAILURES {
            self.fails(&format!("NVML failed {FAILURES} times: {why}"));
        }
    }
}

/// All of them, in the order in which they were seen first.
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: Vec<Known>,
    hung: BTreeSet<u32>,
}

impl Devices {
    /// All of them.
    pub(super) fn all(&self) -> &[Known] {
        &self.known
    }

    /// GPUs that must not be asked: they do not answer.
    pub(super) fn hung(&self) -> &BTreeSet<u32> {
        &self.hung
    }

    /// Takes what a round brought. `hang` is what is said of a GPU that did not answer.
    pub(super) fn take(&mut self, round: &Round, hang: &str, notices: &mut Notices) {
        for known in &mut self.known {
            known.is_there = self.hung.contains(&known.index);
        }
        let mut met = BTreeSet::new();
        for answer in &round.answers {
            self.take_answer(answer, &mut met, notices);
        }
        for index in &round.hung {
            self.hung.insert(*index);
            self.each(*index, |known| {
                known.is_there = true;
                known.fails(hang);
            });
            self.say_if_unknown(*index, hang, notices);
        }
        for known in &mut self.known {
            match &round.library {
                Library::Failing(why) => known.failed(why),
                Library::Off(why) => known.fails(why),
                Library::Asked | Library::Absent(_) if !known.is_there => {
                    known.fails("it is no longer there")
                }
                Library::Asked | Library::Absent(_) => {}
            }
        }
    }

    /// Gives a device another try, and those that share its GPU; None: every one. What is not there is forgotten.
    pub(super) fn retry(&mut self, uuid: Option<&str>) {
        let of = |known: &Known| uuid.is_none_or(|uuid| known.device.uuid == uuid);
        let indices: BTreeSet<u32> = self.known.iter().filter(|k| of(k)).map(|k| k.index).collect();
        self.known.retain(|known| known.is_there || !of(known));
        for known in self.known.iter_mut().filter(|known| indices.contains(&known.index)) {
            known.fault = None;
            known.failures = 0;
        }
        self.hung.retain(|index| uuid.is_some() && !indices.contains(index));
    }

    fn each(&mut self, index: u32, act: impl FnMut(&mut Known)) {
        self.known.iter_mut().filter(|known| known.index == index).for_each(act);
    }

    fn take_answer(&mut self, answer: &Answer, met: &mut BTreeSet<String>, notices: &mut Notices) {
        match &answer.devices {
            Ok(devices) => {
                notices.take_back(&unknown_key(answer.index));
                for device in devices {
                    self.take_device(answer.index, device, met, notices);
                }
            }
            Err(Trouble::Lost(why)) => {
                self.each(answer.index, |known| {
                    known.is_there = true;
                    known.fails(&format!("lost: {why}"));
                });
                self.say_if_unknown(answer.index, why, notices);
            }
            Err(Trouble::Failing(why)) => {
                self.each(answer.index, |known| known.failed(why));
                self.say_if_unknown(answer.index, why, notices);
            }
        }
        for code in &answer.xids {
            self.take_xid(answer.index, *code, notices);
        }
    }

    fn take_device(&mut self, index: u32, told: &Device, met: &mut BTreeSet<String>, notices: &mut Notices) {
        let Some(device) = plausible(told, notices) else { return };
        if !met.insert(device.uuid.clone()) {
            notices.say(
                &format!("twice {}", device.uuid),
                format!("NVML shows two GPUs with the identity `{}`; one is used", device.uuid),
            );
            return;
        }
        match self.known.iter_mut().find(|known| known.device.uuid == device.uuid) {
            Some(known) => {
                (known.index, known.device, known.failures, known.is_there) = (index, device, 0, true);
            }
            None => {
                tracing::info!(gpu = device.uuid, name = device.name, "GPU found");
                self.known.push(Known { index, device, fault: None, failures: 0, is_there: true });
            }
        }
    }

    fn take_xid(&mut self, index: u32, code: Option<u64>, notices: &mut Notices) {
        let shown = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
        match code.map_or(Class::Noted, class) {
            Class::Fault(meaning) => {
                self.each(index, |known| known.fails(&format!("XID {shown}: {meaning}")))
            }
            Class::Application => tracing::info!(index, xid = shown, "an application upset a GPU"),
            Class::Noted => self.each(index, |known| {
                let uuid = &known.device.uuid;
                let text = format!("GPU `{uuid}` reported XID {shown}; it stays in service");
                notices.say(&format!("xid {uuid} {shown}"), text);
            }),
        }
    }

    fn say_if_unknown(&self, index: u32, why: &str, notices: &mut Notices) {
        if !self.known.iter().any(|known| known.index == index) {
            notices.say(&unknown_key(index), format!("GPU number {index} of NVML cannot be used: {why}"));
        }
    }
}

fn unknown_key(index: u32) -> String {
    format!("unknown {index}")
}

/// What can be believed of what was told. None: nothing.
fn plausible(told: &Device, notices: &mut Notices) -> Option<Device> {
    let is_word = |c: char| !c.is_whitespace() && !c.is_control() && c != ',';
    if told.uuid.is_empty() || !told.uuid.chars().all(is_word) {
        notices.say("identity", format!("a GPU is not used: its identity {:?} is no word", told.uuid));
        return None;
    }
    let mut device = told.clone();
    let uuid = &told.uuid;
    let lie = format!("memory {uuid}");
    if told.free > told.total || told.used > told.total {
        let text = format!(
            "NVML says of GPU `{uuid}` that {} bytes are free and {} used of {}; more than all is not believed",
            told.free, told.used, told.total,
        );
        // The figures change with every look; the lie is the same.
        if !notices.is_said(&lie) {
            notices.say(&lie, text);
        }
    }
    device.free = told.free.min(told.total);
    let listed = told.listed.iter().flatten().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    device.used = told.used.max(told.total - device.free).max(listed).min(told.total);
    device.utilisation = told.utilisation.min(100);
    let clean = told.name.chars().filter(|c| !c.is_control());
    device.name = clean
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= NAME_BYTES).then_some(c)
        })
        .collect();
    Some(device)
}

/// The devices that an NVLink, or a switch between NVLinks, joins each device to, in the devices' order.
pub(super) fn peers(devices: &[&Device]) -> Vec<Vec<String>> {
    let is_gpu = |bus: &String| devices.iter().any(|device| device.bus == *bus);
    let joined = |a: &Device, b: &Device| {
        a.ends.contains(&b.bus)
            || b.ends.contains(&a.bus)
            || a.ends.iter().any(|end| !is_gpu(end) && b.ends.contains(end))
    };
    let of = |a: &Device| {
        let others = devices.iter().filter(|b| b.uuid != a.uuid && joined(a, b));
        others.map(|b| b.uuid.clone()).collect()
    };
    devices.iter().map(|device| of(device)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn device() -> impl Strategy<Value = Device> {
        let word = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d"), Just("x,y"), Just("")];
        let bytes = || prop_oneof![0_u64..1_000, any::<u64>()];
        let listed = prop::option::of(prop::collection::vec((any::<u32>(), bytes()), 0..3));
        (word, bytes(), bytes(), bytes(), listed, any::<u32>(), ".{0,120}").prop_map(
            |(uuid, total, free, used, listed, utilisation, name)| Device {
                uuid: uuid.to_owned(),
                name,
                total,
                free,
                used,
                listed,
                utilisation,
                ..Device::default()
            },
        )
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let trouble = prop_oneof![
            Just(Trouble::Lost("gone".to_owned())),
            Just(Trouble::Failing("perhaps".to_owned())),
        ];
        let devices = prop_oneof![
            4 => prop::collection::vec(device(), 0..3).prop_map(Ok),
            1 => trouble.prop_map(Err),
        ];
        let xids = prop::collection::vec(prop::option::of(prop_oneof![Just(79), Just(31), 0_u64..200]), 0..2);
        (0_u32..4, devices, xids).prop_map(|(index, devices, xids)| Answer { index, devices, xids })
    }

    fn round() -> impl Strategy<Value = Round> {
        let library = prop_oneof![
            8 => Just(Library::Asked),
            1 => Just(Library::Absent("none".to_owned())),
            1 => Just(Library::Failing("perhaps".to_owned())),
            1 => Just(Library::Off("hangs".to_owned())),
        ];
        let answers = prop::collection::vec(answer(), 0..4);
        let hung = prop::collection::vec(0_u32..4, 0..2);
        (library, answers, hung).prop_map(|(library, answers, hung)| Round {
            library,
            driver: String::new(),
            answers,
            hung,
        })
    }

    proptest! {
        #[test]
        fn whatever_nvml_says_figures_are_plausible_faults_stand_and_nothing_is_forgotten(
            rounds in prop::collection::vec(round(), 1..12),
        ) {
            let (mut devices, mut notices) = (Devices::default(), Notices::default());
            let mut before: BTreeMap<String, Option<String>> = BTreeMap::new();
            for round in rounds {
                devices.take(&round, "hangs", &mut notices);
                let now: BTreeMap<_, _> =
                    devices.all().iter().map(|known| (known.device.uuid.clone(), known.fault.clone())).collect();
                prop_assert_eq!(now.len(), devices.all().len(), "an identity is one device");
                for (uuid, fault) in &before {
                    let stands = now.get(uuid).is_some_and(|now| fault.is_none() || now == fault);
                    prop_assert!(stands, "{} had {:?}", uuid, fault);
                }
                for known in devices.all() {
                    let device = &known.device;
                    prop_assert!(device.used <= device.total && device.free <= device.total);
                    let listed = device.listed.iter().flatten().fold(0_u64, |sum, (_, b)| sum.saturating_add(*b));
                    prop_assert!(device.used >= device.total - device.free);
                    prop_assert!(device.used >= listed.min(device.total));
                    prop_assert!(device.utilisation <= 100 && device.name.len() <= NAME_BYTES);
                    prop_assert!(!device.uuid.is_empty() && !device.uuid.contains(','));
                }
                before = now;
            }
            devices.retry(None);
            prop_assert!(devices.all().iter().all(|known| known.fault.is_none()) && devices.hung().is_empty());
        }
    }
}
