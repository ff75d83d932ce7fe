//! The host's ledger: what was measured, what is out of service, and what may still be given. Owns no grant: whoever
//! asks says what was given to whom.

use crate::vocabulary::{DeviceReading, Grant, HostReading, Reserve, Time, WorkerUse};
use grange_protocol::fit::{Device, Placement, Room};
use grange_protocol::resource::ResourceRequest;
use std::collections::BTreeMap;

/// What a worker holds of the host, or will.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// GPUs, by their place in the ledger.
    pub(crate) devices: Vec<usize>,
    pub(crate) vram_mb: u64,
    pub(crate) exclusive: bool,
    pub(crate) ram_mb: u64,
    pub(crate) cpus: u32,
}

impl Holding {
    pub(crate) fn new(placement: Placement, request: &ResourceRequest) -> Self {
        let Placement { devices, vram_mb, ram_mb, cpus } = placement;
        // An unknown need takes a GPU whole.
        let exclusive = request.exclusive || (request.gpus > 0 && request.vram_mb == 0);
        Self { devices, vram_mb, exclusive, ram_mb, cpus }
    }
}

/// What a worker is seen to use, by the ledger's places.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) ram_mb: u64,
    pub(crate) vram_mb: Vec<(usize, u64)>,
}

/// One GPU.
#[derive(Debug, Default)]
struct Known {
    reading: DeviceReading,
    /// Nothing new is started on it, for this reason.
    quarantine: Option<String>,
    /// The least that was left over when it was looked at, or, where nobody tells, in use: what the driver keeps for
    /// itself. No worker can have it.
    baseline_mb: u64,
    /// An operator wanted another try, and nothing was read since.
    retried: bool,
    /// It was not there at that try, and is not missed any more. Its place stays: others are named by theirs.
    is_gone: bool,
    /// What others than this agent's workers use, the driver included, and what is not back.
    others_mb: u64,
}

impl Known {
    /// Takes a look at it in, with so much of it given away.
    fn look(&mut self, reading: DeviceReading, taken_mb: u64) {
        self.baseline_mb = self.baseline_mb.min(baseline(&reading));
        self.others_mb = if reading.attributed {
            reading.foreign_mb + reading.leftover_mb
        } else {
            // Nobody tells who uses what: what others used before they may use still, unless less is in use; what is
            // beyond all grants is theirs too. Workers that do not use all of their grants hide nobody then.
            reading.used_mb.saturating_sub(taken_mb).max(self.others_mb.min(reading.used_mb))
        };
        self.reading = reading;
    }

    /// What others use beside the driver.
    fn foreign_mb(&self) -> u64 {
        self.others_mb.saturating_sub(self.baseline_mb)
    }
}

/// What of a GPU's memory nobody seems to use.
fn baseline(reading: &DeviceReading) -> u64 {
    if reading.attributed { reading.leftover_mb } else { reading.used_mb }
}

/// All that is known of the host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    reserve: Reserve,
    known: Vec<Known>,
    taken_at: Time,
    cpus: u32,
    ram_mb: u64,
    ram_other_mb: u64,
    driver: String,
    labels: BTreeMap<String, String>,
    /// As the host was read last, for the next look at what fits.
    spare_room: Option<Room>,
}

/// What is given away of each part, summed over its holders.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    devices: Vec<GivenDevice>,
    ram_mb: u64,
    cpus: u64,
}

#[derive(Clone, Debug, Default)]
struct GivenDevice {
    granted_mb: u64,
    /// The larger of grant and use, for each holder.
    taken_mb: u64,
    shares: u32,
    exclusive: bool,
}

impl Given {
    /// Counts one holder, with what it is seen to use.
    pub(crate) fn add(&mut self, holding: &Holding, used: &Used) {
        for place in &holding.devices {
            let Some(device) = self.devices.get_mut(*place) else { continue };
            let uses = used.vram_mb.iter().find(|(used, _)| used == place).map_or(0, |(_, mb)| *mb);
            device.granted_mb += holding.vram_mb;
            device.taken_mb += holding.vram_mb.max(uses);
            device.shares += 1;
            device.exclusive |= holding.exclusive;
        }
        for (place, uses) in used.vram_mb.iter().filter(|(place, _)| !holding.devices.contains(place)) {
            if let Some(device) = self.devices.get_mut(*place) {
                device.taken_mb += uses;
            }
        }
        self.ram_mb += holding.ram_mb.max(used.ram_mb);
        self.cpus += u64::from(holding.cpus);
    }

    /// Counts what another counts too.
    pub(crate) fn add_all(&mut self, other: &Self) {
        for (device, other) in self.devices.iter_mut().zip(&other.devices) {
            device.granted_mb += other.granted_mb;
            device.taken_mb += other.taken_mb;
            device.shares += other.shares;
            device.exclusive |= other.exclusive;
        }
        self.ram_mb += other.ram_mb;
        self.cpus += other.cpus;
    }

    /// Takes the larger part of both, of each thing.
    pub(crate) fn raise(&mut self, other: &Self) {
        for (device, other) in self.devices.iter_mut().zip(&other.devices) {
            device.granted_mb = device.granted_mb.max(other.granted_mb);
            device.taken_mb = device.taken_mb.max(other.taken_mb);
            device.shares = device.shares.max(other.shares);
            device.exclusive |= other.exclusive;
        }
        (self.ram_mb, self.cpus) = (self.ram_mb.max(other.ram_mb), self.cpus.max(other.cpus));
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

impl Host {
    pub(crate) fn new(reserve: Reserve) -> Self {
        Self { reserve, ..Self::default() }
    }

    pub(crate) fn uuid(&self, place: usize) -> &str {
        self.known.get(place).map_or("", |known| known.reading.uuid.as_str())
    }

    /// What a worker uses, by place.
    pub(crate) fn used(&self, seen: &WorkerUse) -> Used {
        let place = |uuid: &String| self.known.iter().position(|known| known.reading.uuid == *uuid);
        let vram_mb = seen.vram_mb.iter().filter_map(|(uuid, mb)| Some((place(uuid)?, *mb))).collect();
        Used { ram_mb: seen.ram_mb, vram_mb }
    }

    pub(crate) fn taken_at(&self) -> Time {
        self.taken_at
    }

    /// Takes a reading, with so much given to workers. Returns the places of GPUs that fell ill with it.
    pub(crate) fn read(&mut self, reading: &mut HostReading, given: &Given) -> Vec<usize> {
        self.spare_room = None;
        self.taken_at = reading.taken_at;
        (self.cpus, self.ram_mb, self.ram_other_mb) = (reading.cpus, reading.ram_mb, reading.ram_other_mb);
        self.driver = std::mem::take(&mut reading.driver);
        self.labels = std::mem::take(&mut reading.labels);
        let mut fresh = std::mem::take(&mut reading.devices);
        let mut ill = Vec::new();
        for (place, known) in self.known.iter_mut().enumerate() {
            let fault = match fresh.iter().position(|device| device.uuid == known.reading.uuid) {
                Some(found) => {
                    let taken_mb = given.devices.get(place).map_or(0, |given| given.taken_mb);
                    known.look(fresh.swap_remove(found), taken_mb);
                    if std::mem::take(&mut known.is_gone) {
                        known.quarantine = None;
                    }
                    known.reading.fault.clone()
                }
                None => {
                    if known.retried {
                        known.is_gone = true;
                        let uuid = std::mem::take(&mut known.reading.uuid);
                        known.reading = DeviceReading { uuid, ..DeviceReading::default() };
                    }
                    Some("it is no longer there".to_owned())
                }
            };
            known.retried = false;
            if let Some(why) = fault.filter(|_| known.quarantine.is_none()) {
                known.quarantine = Some(why);
                ill.push(place);
            }
        }
        fresh.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        for device in fresh {
            let (baseline_mb, others_mb) = (baseline(&device), device.used_mb);
            let mut known =
                Known { quarantine: device.fault.clone(), baseline_mb, others_mb, ..Known::default() };
            known.look(device, 0);
            self.known.push(known);
        }
        ill
    }

    /// Takes a GPU out of service. False: it was already.
    pub(crate) fn quarantine(&mut self, place: usize, why: String) -> bool {
        self.spare_room = None;
        match self.known.get_mut(place) {
            Some(known) if known.quarantine.is_none() => {
                known.quarantine = Some(why);
                true
            }
            _ => false,
        }
    }

    /// Puts GPUs into service again; one that is still ill falls out with the next reading, and one that is not in it
    /// is forgotten.
    pub(crate) fn unquarantine(&mut self, uuid: Option<&str>) {
        self.spare_room = None;
        for known in self.known.iter_mut().filter(|known| !known.is_gone) {
            if uuid.is_none_or(|uuid| uuid == known.reading.uuid) {
                known.retried = true;
                known.quarantine = None;
                known.baseline_mb = known.baseline_mb.max(known.reading.leftover_mb);
            }
        }
    }

    pub(crate) fn is_quarantined(&self, place: usize) -> bool {
        self.known.get(place).is_some_and(|known| known.quarantine.is_some())
    }

    /// Whether it was forgotten.
    pub(crate) fn is_gone(&self, place: usize) -> bool {
        self.known.get(place).is_some_and(|known| known.is_gone)
    }

    /// Memory that nobody who lives uses, beyond what the driver keeps, MiB. None: the driver does not tell.
    pub(crate) fn unreturned_mb(&self, place: usize) -> Option<u64> {
        let known = self.known.get(place).filter(|known| known.reading.attributed)?;
        Some(known.reading.leftover_mb.saturating_sub(known.baseline_mb))
    }

    /// Nothing is given away yet.
    pub(crate) fn nothing_given(&self) -> Given {
        Given { devices: vec![GivenDevice::default(); self.known.len()], ram_mb: 0, cpus: 0 }
    }

    /// What may be given, with so much given away.
    pub(crate) fn room(&self, given: &Given) -> Room {
        let devices = self.known.iter().zip(&given.devices).map(|(known, given)| {
            let reading = &known.reading;
            Device {
                uuid: reading.uuid.clone(),
                name: reading.name.clone(),
                compute: reading.compute.clone(),
                free_mb: self.free_mb(known, given),
                usable_mb: self.usable_mb(known),
                shares: given.shares,
                exclusive: given.exclusive,
                quarantine: known.quarantine.clone(),
                links: reading.links.clone(),
            }
        });
        Room {
            devices: devices.collect(),
            ram_mb: self.free_ram_mb(given),
            ram_usable_mb: self.ram_usable_mb(),
            cpus: self.free_cpus(given),
            cpus_usable: self.cpus_usable(),
            driver: self.driver.clone(),
            labels: self.labels.clone(),
        }
    }

    /// Brings a room of this host up to date for another sum of what is given away.
    pub(crate) fn refill(&self, room: &mut Room, given: &Given) {
        for ((device, known), given) in room.devices.iter_mut().zip(&self.known).zip(&given.devices) {
            device.free_mb = self.free_mb(known, given);
            (device.shares, device.exclusive) = (given.shares, given.exclusive);
        }
        (room.ram_mb, room.cpus) = (self.free_ram_mb(given), self.free_cpus(given));
    }

    /// A room of this host to be brought up to date by `refill`, which is to be kept afterwards: to make one anew for
    /// every look costs more than the look.
    pub(crate) fn take_room(&mut self) -> Room {
        self.spare_room.take().unwrap_or_else(|| self.room(&self.nothing_given()))
    }

    pub(crate) fn keep_room(&mut self, room: Room) {
        self.spare_room = Some(room);
    }

    fn free_mb(&self, known: &Known, given: &GivenDevice) -> i64 {
        signed(self.usable_mb(known)) - signed(known.foreign_mb()) - signed(given.taken_mb)
    }

    /// Whether what somebody holds is there, with all that is given away, this included, and with the memory of those who
    /// ended on the GPUs `back`. What was not asked for is not looked at: others may use more of it than there is.
    pub(crate) fn is_sound(&self, holding: &Holding, given: &Given, back: &[usize]) -> bool {
        let fits = |place: &usize| {
            let (Some(known), Some(given)) = (self.known.get(*place), given.devices.get(*place)) else {
                return false;
            };
            let alone = !given.exclusive || given.shares == 1;
            let unreturned = if back.contains(place) { self.unreturned_mb(*place) } else { None };
            let free_mb = self.free_mb(known, given) + signed(unreturned.unwrap_or(0));
            free_mb >= 0 && known.quarantine.is_none() && alone
        };
        let ram = holding.ram_mb == 0 || self.free_ram_mb(given) >= 0;
        let cpus = holding.cpus == 0 || self.free_cpus(given) >= 0;
        holding.devices.iter().all(fits) && ram && cpus
    }

    fn free_ram_mb(&self, given: &Given) -> i64 {
        signed(self.ram_usable_mb()) - signed(self.ram_other_mb) - signed(given.ram_mb)
    }

    fn ram_usable_mb(&self) -> u64 {
        self.ram_mb.saturating_sub(self.reserve.ram_mb)
    }

    fn free_cpus(&self, given: &Given) -> i64 {
        i64::from(self.cpus_usable()) - signed(given.cpus)
    }

    fn cpus_usable(&self) -> u32 {
        self.cpus.saturating_sub(self.reserve.cpus)
    }

    fn usable_mb(&self, known: &Known) -> u64 {
        known.reading.total_mb.saturating_sub(self.reserve.vram_mb).saturating_sub(known.baseline_mb)
    }

    /// What others use of a GPU and what was granted on it, MiB.
    pub(crate) fn foreign_and_granted(&self, place: usize, given: &Given) -> (u64, u64) {
        match (self.known.get(place), given.devices.get(place)) {
            (Some(known), Some(given)) => (known.foreign_mb(), given.granted_mb),
            _ => (0, 0),
        }
    }

    /// The grant that a worker is told.
    pub(crate) fn grant(&self, holding: &Holding) -> Grant {
        Grant {
            devices: holding.devices.iter().map(|place| self.uuid(*place).to_owned()).collect(),
            vram_mb: holding.vram_mb,
            exclusive: holding.exclusive,
            ram_mb: holding.ram_mb,
            cpus: holding.cpus,
        }
    }

    pub(crate) fn devices(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(uuids: &[&str]) -> HostReading {
        let device =
            |uuid: &&str| DeviceReading { uuid: (*uuid).to_owned(), total_mb: 9, ..DeviceReading::default() };
        HostReading { devices: uuids.iter().map(device).collect(), ..HostReading::default() }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_missed_until_an_operator_tries_it_again() {
        let mut host = Host::default();
        let see = |host: &mut Host, uuids: &[&str]| {
            let given = host.nothing_given();
            host.read(&mut reading(uuids), &given)
        };
        assert!(see(&mut host, &["a", "b"]).is_empty());
        assert_eq!(see(&mut host, &["b"]), [0]);
        assert!(host.is_quarantined(0) && !host.is_gone(0));
        assert!(see(&mut host, &["a", "b"]).is_empty());
        assert!(host.is_quarantined(0), "it may be loose: that it is back is not enough");
        host.unquarantine(Some("a"));
        assert!(!host.is_quarantined(0));
        assert_eq!((see(&mut host, &["b"]), host.is_gone(0)), (vec![0], true), "what was put on it dies");
        host.unquarantine(None);
        assert!(host.is_quarantined(0), "nothing is given of what is not there");
        assert_eq!((host.uuid(0), host.uuid(1), host.is_quarantined(1)), ("a", "b", false));
        let room = host.room(&host.nothing_given());
        assert_eq!((room.devices[0].usable_mb, room.devices[1].usable_mb), (0, 9), "no hope is set on it");
        assert!(see(&mut host, &["a", "b"]).is_empty());
        assert!(!host.is_gone(0) && !host.is_quarantined(0), "what comes back is new");
    }
}
