//! Counts what a source's objects take in a consumer's memory: the store and the model.
//!
//! `objects SOURCE [SOURCE]…` follows each source to its first update and prints one line for
//! each: the objects, the bytes on the heap that this and nothing else added, as they were asked
//! of the allocator, and the blocks. The processes that serve are measured from outside, by
//! their resident memory; this says how much of that the objects are. With `OBJECTS_PROFILE=FILE`
//! it writes besides which code holds the bytes, for dhat's viewer.

use daemon::Daemon;
use feed::{Config, Kind, Kinds};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// What every data path follows.
const KINDS: Kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);

#[derive(Debug, clap::Parser)]
struct Cli {
    sources: Vec<feed::Source>,
    #[command(flatten)]
    api: feed::ApiConfig,
}

#[tokio::main(worker_threads = 1)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cli = <Cli as clap::Parser>::parse();
    let profile = std::env::var_os("OBJECTS_PROFILE");
    let _profiler = match &profile {
        Some(file) => dhat::Profiler::builder().file_name(file).build(),
        None => dhat::Profiler::builder().testing().build(),
    };
    for source in cli.sources {
        let before = dhat::HeapStats::get();
        let config = Config { source, host_resolver: Vec::new(), api: cli.api.clone() };
        let mut updates = feed::follow(&config, KINDS, &Daemon::detached("objects", 1))?;
        let update = updates.next().await.ok_or("the source has gone")?;
        let model = update.model;
        drop(update.changes);
        // Buffers of the first list go when their owners next look.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let after = dhat::HeapStats::get();
        let count = model.count(Kind::Service) + model.count(Kind::EndpointSlice);
        let bytes = after.curr_bytes.saturating_sub(before.curr_bytes);
        let blocks = after.curr_blocks.saturating_sub(before.curr_blocks);
        println!("{count} objects {bytes} bytes {blocks} blocks");
        std::mem::forget((updates, model));
    }
    if profile.is_some() {
        // What is still held at the end is what the profile is about.
        drop(_profiler);
        std::process::exit(0);
    }
    Ok(())
}
