//! `grange agents`.

use crate::cli::StateFlag;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use grange_broker_client::query;

#[derive(clap::Args)]
pub(crate) struct AgentsFlags {
    #[command(flatten)]
    pub(crate) state: StateFlag,
}

pub(crate) async fn run(context: &Context, output: &mut dyn Output) -> Result<Exit, Failure> {
    let session = context.connect().await?;
    let agents = query::agents(&session.broker).await?;
    output.agents(&agents)?;
    Ok(Exit::Ok)
}
