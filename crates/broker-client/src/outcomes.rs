//! stub
use crate::connect::Broker;
use crate::error::Error;
use grange_protocol::name::Owner;
use grange_protocol::record::Record;
use grange_protocol::subject::JobKey;

/// Waits for many jobs.
#[derive(Debug)]
pub struct Outcomes {}

impl Outcomes {
    /// Subscribes to everything that an owner has.
    pub async fn open(broker: &Broker, owner: &Owner) -> Result<Self, Error> {
        todo!("{broker:?} {owner}")
    }
    /// Registers at once; the future ends with the job's terminal record.
    pub fn wait(&self, key: &JobKey) -> impl Future<Output = Result<Box<Record>, Error>> + Send + use<> {
        let key = key.clone();
        async move { todo!("{key}") }
    }
}
