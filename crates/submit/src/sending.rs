//! Files of a job on their way to the object store.
//!
//! Owns the sending and what is shown meanwhile. Which files there are is read by `arguments`.

use crate::arguments::Arguments;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::words::Sending;
use grange_broker_client::objects::Objects;
use grange_protocol::object::ObjectRef;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::interval;

/// How often a file on its way is looked after.
const LOOK: Duration = Duration::from_millis(100);

/// Sends every file and puts its reference among the arguments.
pub(crate) async fn send_files(
    arguments: &mut Arguments,
    context: &Context,
    output: &mut dyn Output,
) -> Result<(), Failure> {
    if arguments.files.is_empty() {
        return Ok(());
    }
    let objects = context.objects().await?;
    for (name, path) in std::mem::take(&mut arguments.files) {
        let object = send_file(&objects, &path, output).await?;
        arguments.kwargs.insert(name, object.to_value());
    }
    Ok(())
}

async fn send_file(objects: &Objects, path: &Path, output: &mut dyn Output) -> Result<ObjectRef, Failure> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let size = path.metadata().map_or(0, |file| file.len());
    let started = Instant::now();
    let mut looks = interval(LOOK);
    let sent = objects.put_file(path, &name);
    tokio::pin!(sent);
    let object = loop {
        tokio::select! {
            done = &mut sent => break done,
            _ = looks.tick() => {
                output.sending(Some(&Sending { name: name.clone(), size, elapsed: started.elapsed() }))?;
            }
        }
    };
    output.sending(None)?;
    object.map_err(|error| Failure::of_store(&error))
}
