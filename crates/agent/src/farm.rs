//! The rooms of an agent that look at the whole farm: who reads the overview, keeps house when nobody else does, tells and
//! hears what plugins need, counts what owners run, and carries what is due into the queues. Each is a task of its own; the house waits for none.

use crate::carrier;
use crate::housekeeper::Duty;
use crate::learned::{self, Table};
use crate::news::HouseEvent;
use crate::overview::reader::Reader;
use crate::overview::{Latest, Own};
use crate::permits::Permits;
use grange_broker_client::connect::{Broker, Options};
use grange_protocol::record::Holder;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long counts may take to be lowered when the agent leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the house holds of them.
pub struct FarmRooms {
    /// What this agent said of itself lately.
    pub own: Own,
    /// The newest overview.
    pub latest: Latest,
    broker: Broker,
    options: Options,
    keep_records: Duration,
    reader: Option<Reader>,
    leave: CancellationToken,
    /// A housekeeper's thread ends with the house, however that ends.
    _end: DropGuard,
}

impl FarmRooms {
    /// Rooms where nobody works yet. `options`: how `broker` was connected to. `keep_records`: how long the record of a job
    /// that ended is kept.
    pub fn new(
        broker: &Broker,
        options: Options,
        keep_records: Duration,
        news: mpsc::Sender<HouseEvent>,
    ) -> Self {
        let own = Own::default();
        let (reader, latest) = Reader::new(broker, own.clone(), news);
        let leave = CancellationToken::new();
        let end = leave.clone().drop_guard();
        Self {
            own,
            latest,
            broker: broker.clone(),
            options,
            keep_records,
            reader: Some(reader),
            leave,
            _end: end,
        }
    }

    /// Begins to work in them.
    pub fn begin(&mut self, tasks: &mut JoinSet<()>, me: &Holder, table: &Table, permits: Option<&Permits>) {
        let Some(reader) = self.reader.take() else { return };
        tasks.spawn(reader.run());
        tasks.spawn(learned::exchange(self.broker.clone(), table.clone()));
        tasks.spawn(carrier::run(self.broker.clone()));
        if let Some(permits) = permits {
            tasks.spawn(permits.clone().keep());
        }
        let duty = Duty {
            broker: self.broker.clone(),
            options: self.options.clone(),
            me: me.clone(),
            latest: self.latest.clone(),
            keep_records: self.keep_records,
            leave: self.leave.clone(),
        };
        tasks.spawn(duty.run());
    }

    /// The agent takes no more work: another may keep house.
    pub fn resign(&self) {
        self.leave.cancel();
    }

    /// The agent leaves: what it counted for owners is given back. What is lost of that is dropped by others in time.
    pub async fn leave(&self, permits: Option<&Permits>) {
        self.resign();
        if let Some(permits) = permits {
            let _ = tokio::time::timeout(FAREWELL, permits.settle()).await;
        }
    }
}
