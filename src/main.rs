//! The command `switchyard`: parses the command line and runs one subcommand.

use std::process::ExitCode;

use clap::Parser;

/// Responses and datagrams are small and short-lived; mimalloc serves them faster than malloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Kubernetes Services, Ingress and cluster DNS for containers anywhere
#[derive(Debug, Parser)]
#[command(name = "switchyard", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The L4 service proxy: ClusterIP and NodePort Services
    Proxy(Process<proxy::Config>),
    /// The L7 ingress: hosts, paths and TLS
    Ingress(Process<ingress::Config>),
    /// The cluster DNS responder
    Dns(Process<dns::Config>),
}

/// The flags of a process that follows a feed.
#[derive(Debug, clap::Args)]
struct Process<C: clap::Args> {
    #[command(flatten)]
    feed: feed::Config,
    #[command(flatten)]
    own: C,
    #[command(flatten)]
    shared: daemon::Flags,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Proxy(p) => daemon::start("proxy", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, proxy::KINDS, &daemon)?;
            proxy::run(p.own, updates, daemon).await
        }),
        Command::Ingress(p) => daemon::start("ingress", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, ingress::KINDS, &daemon)?;
            ingress::run(p.own, updates, daemon).await
        }),
        Command::Dns(p) => daemon::start("dns", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, dns::KINDS, &daemon)?;
            dns::run(p.own, updates, daemon).await
        }),
    }
}
