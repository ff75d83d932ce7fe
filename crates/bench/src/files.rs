//! Large files: from the client's disk into a job, and from a job onto the client's disk. The time that the plugin
//! takes to read or write its own file is left out.

use crate::figures::round;
use crate::site::{PLUGINS, Site};
use anyhow::{Context as _, Result};
use grange_broker_client::objects::Objects;
use grange_protocol::json::Json;
use grange_protocol::object::list_objects;
use grange_protocol::record::Record;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Measures both plugins with files of `bytes` bytes, each `times` times; the median counts.
pub(crate) async fn measure(site: &Site, bytes: u64, times: u64) -> Result<Value> {
    let objects = Objects::open(&site.farm.objects_url(), &BTreeMap::new()).await?;
    let folder = site.farm.folder.path().join("files");
    std::fs::create_dir_all(&folder)?;
    let outcomes = site.outcomes().await?;
    let mut report = Map::new();
    for (seed, (name, plugin)) in (0..).zip(PLUGINS) {
        site.run(&outcomes, site.submission(plugin, &json!({}), false)).await?;
        let (mut ins, mut outs) = (Vec::new(), Vec::new());
        for n in 0..times {
            let source = folder.join("in.bin");
            fill(&source, bytes, seed * times + n)?;
            let begun = Instant::now();
            let object = objects.put_file(&source, "in.bin").await?;
            let record = site
                .run(&outcomes, site.submission(plugin, &json!({"read": object.to_value()}), false))
                .await?;
            ins.push(begun.elapsed().saturating_sub(inside(&record)));
            let size = result(&record)["size"].as_u64();
            anyhow::ensure!(size == Some(bytes), "the job saw {size:?} bytes of {bytes}");
            let begun = Instant::now();
            // Every size is another file, so that no object is there already.
            let wanted = bytes + seed * times + n + 1;
            let record =
                site.run(&outcomes, site.submission(plugin, &json!({"write_bytes": wanted}), false)).await?;
            let found = list_objects(&result(&record))?;
            let object = found.first().context("the job returned no file")?;
            objects.get_to_file(object, &folder.join("out.bin")).await?;
            outs.push(begun.elapsed().saturating_sub(inside(&record)));
        }
        let figures = json!({"bytes": bytes, "in_mib_per_s": rate(bytes, &mut ins), "out_mib_per_s": rate(bytes, &mut outs)});
        report.insert(name.to_owned(), figures);
    }
    Ok(Value::Object(report))
}

/// The time that the plugin itself took to read or write its file.
fn inside(record: &Record) -> Duration {
    let ms = record.outcome.as_ref().map_or(0.0, |outcome| outcome.usage.run_ms);
    Duration::from_secs_f64(ms.max(0.0) / 1000.0)
}

fn result(record: &Record) -> Value {
    let result = record.outcome.as_ref().and_then(|outcome| outcome.result.as_ref());
    result.map_or(Value::Null, Json::value)
}

fn rate(bytes: u64, times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    round(bytes as f64 / (1024.0 * 1024.0) / median.as_secs_f64(), 0)
}

/// Bytes that no other seed gives, written once and then in the page cache, as a file that was just made is.
fn fill(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut block = vec![0u8; 1 << 20];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for word in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut left = bytes;
    let mut count = 0u64;
    while left > 0 {
        block[..8].copy_from_slice(&count.to_le_bytes());
        let now = usize::try_from(left.min(1 << 20))?;
        file.write_all(&block[..now])?;
        left -= now as u64;
        count += 1;
    }
    Ok(())
}
