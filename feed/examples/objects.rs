//! Counts what the objects of a source take in a consumer's memory: the store and the model.
//!
//! `objects SOURCE…` follows each source to its first update and prints a line for each: the
//! number of Services and slices, the bytes on the heap that it added, as they were asked of the
//! allocator, and the blocks. Resident memory of the processes that serve is measured from
//! outside (`bench/feed.sh`); this says how much of it the objects are. `OBJECTS_PROFILE=FILE`
//! writes besides which code holds the bytes at the end, for dhat's viewer.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::time::Duration;

use daemon::Daemon;
use feed::Config;
use model::{Kind, Kinds};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What every data path follows.
const KINDS: Kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);
/// What the first list leaves behind goes within this.
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Parser)]
struct Cli {
    sources: Vec<feed::Source>,
    #[command(flatten)]
    api: feed::ApiConfig,
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cli = <Cli as clap::Parser>::parse();
    let profiler = match std::env::var_os("OBJECTS_PROFILE") {
        Some(file) => dhat::Profiler::builder().file_name(file).build(),
        None => dhat::Profiler::builder().testing().build(),
    };
    let mut held = Vec::new();
    for source in cli.sources {
        let before = dhat::HeapStats::get();
        let config = Config { source, host_resolver: Vec::new(), api: cli.api.clone() };
        let mut updates = feed::follow(&config, KINDS, &Daemon::detached("objects", 1))?;
        let model = updates.next().await.ok_or("the source has gone")?.model;
        tokio::time::sleep(SETTLED).await;
        let after = dhat::HeapStats::get();
        let count = model.count(Kind::Service) + model.count(Kind::EndpointSlice);
        let bytes = after.curr_bytes.saturating_sub(before.curr_bytes);
        let blocks = after.curr_blocks.saturating_sub(before.curr_blocks);
        let told = format!("{count} objects {bytes} bytes {blocks} blocks\n");
        std::io::Write::write_all(&mut std::io::stdout(), told.as_bytes())?;
        held.push((updates, model));
    }
    // While everything is still held.
    drop(profiler);
    Ok(())
}
