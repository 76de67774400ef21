//! The command `switchyard`: parses the command line and runs one subcommand.

mod admin;
mod check;
mod children;
mod demo;
mod echo;
mod explain;
mod judge;
mod passed;
mod ready;
mod scratch;
mod shell;
mod up;

use std::future::Future;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use daemon::Failure;

/// Responses and datagrams are small and short-lived; mimalloc serves them faster than malloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The version, and the commit in brackets when it is known: build.rs finds it.
const VERSION: &str = env!("SWITCHYARD_BUILT_VERSION");
const COMMIT: &str = env!("SWITCHYARD_BUILT_COMMIT");

/// The feed of `switchyard up` and `switchyard feed` by default.
const LOCAL_FEED: &str = "http://127.0.0.1:7400";

/// Kubernetes Services, Ingress and cluster DNS for containers anywhere
#[derive(Debug, Parser)]
#[command(name = "switchyard", version = VERSION, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a demonstration: manifests, endpoints and all processes on loopback, no privileges
    Demo(demo::Config),
    /// Run feed, proxy, ingress and dns for a folder of manifests
    Up(Tool<up::Config>),
    /// The L4 service proxy: ClusterIP and NodePort Services
    #[command(mut_arg("mode", passed::with_modes))]
    Proxy(Process<proxy::Config>),
    /// The L7 ingress: hosts, paths and TLS
    Ingress(Process<ingress::Config>),
    /// The cluster DNS responder
    Dns(Process<dns::Config>),
    /// Serve a folder of manifests as a read-only Kubernetes API
    Feed(Server),
    /// Validate manifests without running anything; exits with 2 if there are errors
    Check(check::Config),
    /// Explain what happens to a URL, a DNS name or IP:PORT, and why
    #[command(mut_arg("source", |feed| feed.required(false).default_value(LOCAL_FEED)))]
    Explain(Tool<explain::Config>),
    /// Print whether a process on this machine is ready; exits with 1 if not
    Ready(ready::Config),
    /// A small HTTP, WebSocket, TCP and UDP endpoint for demos and tests
    Echo(Tool<echo::Config>),
    /// Print the completions of this command line for a shell
    Completions(shell::Completions),
    /// Print the manual page of this command or a subcommand, or write all of them to a folder
    Man(shell::Man),
}

/// The flags of a command that follows no feed itself.
#[derive(Debug, clap::Args)]
struct Tool<C: clap::Args> {
    #[command(flatten)]
    own: C,
    #[command(flatten)]
    log: daemon::LogFlags,
}

/// The flags of the feed server.
#[derive(Debug, clap::Args)]
struct Server {
    #[command(flatten)]
    own: apiserver::Config,
    #[command(flatten)]
    shared: daemon::Flags,
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
    // The allocator uses huge pages, which stay mostly empty in a small process. Without them, an
    // idle process takes 18 MB instead of 31. On a kernel without this option, nothing changes.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    daemon::metrics::built_from(COMMIT);
    match parsed().command {
        Command::Proxy(p) => daemon::start("proxy", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, proxy::KINDS, &daemon)?;
            proxy::run(p.own, updates, daemon).await
        }),
        Command::Ingress(p) => daemon::start("ingress", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, ingress::KINDS, &daemon)?;
            ingress::run(p.own, updates, daemon).await
        }),
        Command::Dns(p) => daemon::start("dns", &p.shared, p.own.admin, |daemon| async {
            let updates = feed::follow(&p.feed, p.own.kinds(), &daemon)?;
            dns::run(p.own, updates, daemon).await
        }),
        Command::Feed(s) => {
            let state_dir = s.shared.state_dir.clone();
            daemon::start("feed", &s.shared, s.own.admin, |daemon| async {
                let judges = || -> apiserver::Judge {
                    let mut judge = judge::Judge::new();
                    Box::new(move |model: &_, changes: &_| judge.judge(model, changes))
                };
                apiserver::run(s.own, state_dir, Arc::new(judges), daemon).await
            })
        }
        Command::Demo(config) => run_tool(&demo::log(), async {
            match demo::run(config).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(Failure::failed("the demo", "not every line was as expected")),
                Err(error) => Err(Failure::failed("the demo failed", error)),
            }
        }),
        Command::Up(t) => run_tool(&t.log, up::run(t.own, &t.log)),
        Command::Check(config) => check::run(&config),
        Command::Ready(config) => ready::run(&config),
        Command::Explain(t) => {
            // Its output is the result; only errors are logged.
            let filter = t.log.filter.or_else(|| Some("error".to_owned()));
            let log = daemon::LogFlags { filter, ..t.log };
            run_tool(&log, explain::run(t.own))
        }
        Command::Echo(t) => run_tool(&t.log, async {
            echo::run(t.own).await.map_err(|error| Failure::failed("echo", error))
        }),
        Command::Completions(config) => printed(shell::complete(&config, Cli::command())),
        Command::Man(config) => printed(shell::manual(&config, Cli::command())),
    }
}

/// The command line; prints help or what is wrong with it and exits.
fn parsed() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| match variable_of(&error, std::env::args()) {
        None => error.exit(),
        Some((flag, variable)) => {
            let message = error.to_string().replace(&format!("'{flag}'"), &variable);
            // Nothing is left to do if standard error is closed.
            let _ = write!(io::stderr(), "{message}");
            std::process::exit(2)
        }
    })
}

/// If the value that clap refuses came from the environment: the flag as clap names it, and the
/// variable.
fn variable_of(
    error: &clap::Error,
    arguments: impl IntoIterator<Item = String>,
) -> Option<(String, String)> {
    use clap::error::{ContextKind, ContextValue};
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.split([' ', '=']).next()?.strip_prefix("--")?;
    let is_given = |argument: &str| {
        argument.strip_prefix("--").and_then(|a| a.split('=').next()) == Some(name)
    };
    let variable = format!("SWITCHYARD_{}", name.to_uppercase().replace('-', "_"));
    let in_arguments = arguments.into_iter().any(|argument| is_given(&argument));
    (!in_arguments && std::env::var_os(&variable).is_some()).then(|| (flag.clone(), variable))
}

/// The exit code of a command that only prints.
fn printed(outcome: Result<(), shell::Error>) -> ExitCode {
    exit_code(outcome.map_err(|error| match &error {
        shell::Error::Unknown(_) => Failure::Configuration(error.to_string()),
        shell::Error::Write(_) => Failure::failed("nothing was written", error),
    }))
}

/// Runs a one-shot command: with a log and a runtime, without an admin endpoint.
fn run_tool(log: &daemon::LogFlags, run: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    daemon::logging::init(log, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run),
        Err(error) => Err(Failure::failed("cannot build a runtime", error)),
    };
    if log.format == Some(daemon::flags::LogFormat::Json) {
        return daemon::exit_code(outcome);
    }
    exit_code(outcome)
}

/// The exit code of a command; prints why it failed, as text, with each cause on its own line.
fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    let mut text = format!("error: {failure}\n");
    let mut cause = std::error::Error::source(&failure);
    while let Some(error) = cause {
        text.push_str(&format!("  caused by: {error}\n"));
        cause = error.source();
    }
    // If standard error is closed, the exit code is enough.
    let _ = io::stderr().write_all(text.as_bytes());
    failure.exit_code()
}
