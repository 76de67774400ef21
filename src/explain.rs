//! `switchyard explain TARGET`: what happens to a URL, a name or an address, and why.
//!
//! It follows the feed like the process that would serve the target, until everything is listed,
//! and asks that process's crate. A name that is also the host of an Ingress is explained as both.
//! The cause can also be something that the feed does not pass on ([`suspects`]). Of a name
//! that is forwarded, the dns process is asked what its cache knows. Left out: sending anything
//! else.

mod process;
mod suspects;
mod target;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use daemon::{Daemon, Failure};
use feed::{Unlisted, Update};
use http::Uri;
use model::{Explanation, Kind, Kinds, Model, Protocol};

use self::process::DnsProcess;
use self::suspects::Suspects;
use self::target::Target;

/// What an ingress follows, without the Secrets for its certificates.
const PLAIN_INGRESS: Kinds =
    Kinds::of(&[Kind::Service, Kind::EndpointSlice, Kind::Ingress, Kind::IngressClass]);

/// After this time without an answer from the feed, a line says what it is waiting for.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// What to explain: a URL as `http://shop.example/api`, a DNS name as
    /// `web.shop.svc.cluster.local`, or IP:PORT, with /udp for UDP (10.96.0.10:53/udp)
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,

    #[command(flatten)]
    feed: feed::Config,

    /// Output format; with json, each target is one line, and a name that is also the host of an
    /// Ingress has the member asHost
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,

    /// How long to wait until the feed has listed everything
    #[arg(long, value_name = "TIME", default_value = "10s",
        value_parser = daemon::flags::parse_duration)]
    timeout: Duration,

    /// The ingress's --ingress-class
    #[arg(
        long,
        env = "SWITCHYARD_INGRESS_CLASS",
        value_name = "NAME",
        default_value = "switchyard"
    )]
    ingress_class: String,

    /// The responder's --domain
    #[arg(long, env = "SWITCHYARD_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    domain: String,

    /// The responder's --pods
    #[arg(long, env = "SWITCHYARD_PODS", value_name = "MODE", default_value = "disabled")]
    pods: dns::PodMode,

    /// The responder's --admin: asked what its cache knows about a name that is forwarded
    #[arg(long, env = "SWITCHYARD_DNS_ADMIN", value_name = "ADDR",
        default_value = "127.0.0.1:7431", value_parser = daemon::flags::parse_address)]
    dns_admin: SocketAddr,

    /// The proxy's --node-name; default: the host's name
    #[arg(long, env = "SWITCHYARD_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,

    /// The proxy's --node-ip
    #[arg(long, env = "SWITCHYARD_NODE_IP", value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// The proxy's --service-cidr
    #[arg(long, env = "SWITCHYARD_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',',
        value_parser = proxy::parse_service_cidr)]
    service_cidr: Vec<proxy::IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The process that the host of a URL leads to.
#[derive(Debug)]
enum Host<'a> {
    /// The proxy or, if no Service has the address, perhaps the ingress.
    Ip(IpAddr),
    /// The responder, and then the proxy.
    Service(&'a str),
    /// The ingress.
    Other,
}

impl Host<'_> {
    fn of<'a>(url: &'a Uri, domain: &str) -> Host<'a> {
        let host = url.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse() {
            Ok(ip) => Host::Ip(ip),
            Err(_) if bare.ends_with(&format!(".svc.{domain}")) => Host::Service(bare),
            Err(_) => Host::Other,
        }
    }
}

/// The kinds that the processes follow which serve the target.
fn kinds_for(target: &Target, domain: &str) -> Kinds {
    match target {
        Target::Url(url) => {
            // Plain HTTP needs no certificates, and not every user may read Secrets.
            let is_https = url.scheme_str() == Some("https");
            let ingress = if is_https { ingress::KINDS } else { PLAIN_INGRESS };
            match Host::of(url, domain) {
                Host::Ip(_) => ingress.and(proxy::KINDS),
                Host::Service(_) => proxy::KINDS.and(dns::KINDS),
                Host::Other => ingress,
            }
        }
        Target::Address(..) => proxy::KINDS,
        // A name may be the host of an Ingress as well.
        Target::Name(_) => dns::KINDS.and(PLAIN_INGRESS),
    }
}

/// The URL of a name that an Ingress has a rule for, exactly or by a wildcard.
fn url_of_host(name: &str, model: &Model) -> Option<Uri> {
    let host = name.trim_end_matches('.').to_ascii_lowercase();
    let parent = host.split_once('.').map(|(_, parent)| parent);
    let is_it = |rule: &str| match rule.strip_prefix("*.") {
        Some(suffix) => parent == Some(suffix),
        None => rule == host,
    };
    let mut ingresses = model.ingresses();
    let is_host = ingresses
        .any(|ingress| ingress.rules.iter().any(|rule| rule.host.as_deref().is_some_and(is_it)));
    is_host.then(|| format!("http://{host}/").parse().ok())?
}

/// Prints the explanation.
///
/// # Errors
///
/// When the feed cannot work, or lists nothing in time.
pub(crate) async fn run(config: Config) -> Result<(), Failure> {
    let daemon = Daemon::detached("explain", 1);
    let update = first_update(&config, &daemon).await?;
    let rejected = feed::rejected(&config.feed, &daemon).await?;
    let suspects = Suspects::new(rejected, feed::lost_hosts(&daemon));
    let responder = Responder::of(&config)?;
    let process = DnsProcess::new(config.dns_admin);
    let ask_process = |name: &str, record_type: &str| process.ask(name, record_type);
    let explainers = Explainers::new(&config, &responder, &update, &ask_process)?;
    let mut out = std::io::stdout().lock();
    for target in &config.targets {
        let as_host = match target {
            Target::Name(name) => url_of_host(name, &update.model).map(Target::Url),
            _ => None,
        };
        let explain = |target: &Target| {
            let mut explanation = explainers.explain(target);
            suspects.look_at(&mut explanation, target);
            explanation
        };
        let explained =
            Explained { as_asked: explain(target), as_host: as_host.as_ref().map(explain) };
        let text = match config.output {
            Output::Text => explained.to_text(),
            Output::Json => {
                let json = serde_json::to_string(&explained);
                json.map_err(|error| Failure::failed("cannot print", error))? + "\n"
            }
        };
        let printed = out.write_all(text.as_bytes());
        printed.map_err(|error| Failure::failed("cannot print", error))?;
    }
    Ok(())
}

/// All that is said of one target.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    #[serde(flatten)]
    as_asked: Explanation,
    /// Of a name that is the host of an Ingress as well: the URL of that host.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_host: Option<Explanation>,
}

impl Explained {
    fn to_text(&self) -> String {
        [&self.as_asked].into_iter().chain(&self.as_host).map(as_text).collect()
    }
}

/// The explainer of each process that the targets need.
struct Explainers<'a> {
    domain: &'a str,
    proxy: Option<proxy::Explainer<'a>>,
    ingress: Option<ingress::Explainer<'a>>,
    dns: Option<dns::Explainer<'a>>,
}

/// What [`Explainers::new`] has seen to.
const MADE: &str = "made, as a target asks for it";

impl<'a> Explainers<'a> {
    fn new(
        config: &'a Config,
        responder: &'a dns::Config,
        update: &'a Update,
        ask_process: dns::AskProcess<'a>,
    ) -> Result<Explainers<'a>, Failure> {
        let domain = &*config.domain;
        let any = |asks: &dyn Fn(&Target) -> bool| config.targets.iter().any(asks);
        let url = |target: &Target, to: fn(Host<'_>) -> bool| match target {
            Target::Url(url) => to(Host::of(url, domain)),
            _ => false,
        };
        let to_proxy = |target: &Target| {
            matches!(target, Target::Address(..)) || url(target, |h| !matches!(h, Host::Other))
        };
        let to_ingress = |target: &Target| {
            matches!(target, Target::Name(_)) || url(target, |h| !matches!(h, Host::Service(_)))
        };
        let to_dns = |target: &Target| {
            matches!(target, Target::Name(_)) || url(target, |h| matches!(h, Host::Service(_)))
        };
        let proxy = any(&to_proxy).then(|| {
            let node = proxy::node_of(config.node_name.as_deref(), &config.node_ip);
            proxy::Explainer::new(update, &node, &config.service_cidr)
        });
        let ingress = || ingress::Explainer::new(update, &config.ingress_class);
        let ingress = any(&to_ingress).then(ingress).transpose()?;
        let dns = || dns::Explainer::new(update, responder, ask_process);
        let dns = any(&to_dns).then(dns).transpose()?;
        Ok(Explainers { domain, proxy, ingress, dns })
    }

    fn explain(&self, target: &Target) -> Explanation {
        match target {
            Target::Url(url) => match Host::of(url, self.domain) {
                Host::Other => self.by_ingress(url),
                Host::Ip(ip) => {
                    let explanation = self.at(ip, url);
                    let is_ours = explanation.to.is_some();
                    if is_ours { explanation } else { self.by_ingress(url) }
                }
                Host::Service(name) => self.by_name(name, url),
            },
            Target::Address(address, protocol) => {
                self.proxy.as_ref().expect(MADE).explain(*address, *protocol)
            }
            Target::Name(name) => self.dns.as_ref().expect(MADE).explain(name),
        }
    }

    fn by_ingress(&self, url: &Uri) -> Explanation {
        self.ingress.as_ref().expect(MADE).explain(url)
    }

    /// Of a URL whose host is a Service's name: what that resolves to.
    fn by_name(&self, name: &str, url: &Uri) -> Explanation {
        let named = self.dns.as_ref().expect(MADE).explain(name);
        let address = named.endpoints.iter().find_map(|data| data.strip_prefix("A "));
        let address = address.or(named.endpoints.iter().find_map(|d| d.strip_prefix("AAAA ")));
        let Some(ip) = address.and_then(|ip| ip.parse().ok()) else {
            return Explanation { target: url.to_string(), ..named };
        };
        let mut explanation = self.at(ip, url);
        explanation.because.splice(0..0, named.because);
        explanation
    }

    /// Of a URL that goes to an IP.
    fn at(&self, ip: IpAddr, url: &Uri) -> Explanation {
        let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
        let address = SocketAddr::new(ip, url.port_u16().unwrap_or(usual));
        let explanation = self.proxy.as_ref().expect(MADE).explain(address, Protocol::Tcp);
        Explanation { target: url.to_string(), ..explanation }
    }
}

/// The responder's own flags: by its environment, as it would have them.
#[derive(Debug, clap::Parser)]
struct Responder {
    #[command(flatten)]
    config: dns::Config,
}

impl Responder {
    fn of(config: &Config) -> Result<dns::Config, Failure> {
        let parsed = Responder::try_parse_from(["dns", "--domain", &config.domain]);
        let responder = parsed.map_err(|error| Failure::Configuration(error.to_string()))?;
        Ok(dns::Config { pods: config.pods, ..responder.config })
    }
}

/// The first update that contains all objects.
async fn first_update(config: &Config, daemon: &Daemon) -> Result<Update, Failure> {
    let kinds = config.targets.iter().map(|target| kinds_for(target, &config.domain));
    let kinds = kinds.fold(Kinds::of(&[]), Kinds::and);
    let mut updates = feed::follow(&config.feed, kinds, daemon)?;
    let mut first: Option<Update> = None;
    let synced = async {
        while let Some(mut update) = updates.next().await {
            if let Some(before) = first.take() {
                update.changes.merge(before.changes);
            }
            if update.synced {
                return Some(update);
            }
            first = Some(update);
        }
        None
    };
    let mut synced = std::pin::pin!(tokio::time::timeout(config.timeout, synced));
    let mut is_announced = false;
    loop {
        tokio::select! {
            outcome = &mut synced => return match outcome {
                Ok(Some(update)) => Ok(update),
                _ => Err(too_late(config, daemon)),
            },
            () = tokio::time::sleep(SILENCE) => {}
        }
        // Requests were repeated meanwhile, so a feed that was being restarted had its chance.
        let unlisted = feed::unlisted(daemon);
        if let Some(unlisted) = unlisted.iter().find(|unlisted| !unlisted.may_pass) {
            let what = refused(&config.feed.source.to_string(), unlisted);
            return Err(Failure::Failed { what, source: None });
        }
        if !std::mem::replace(&mut is_announced, true) {
            let (source, timeout) = (&config.feed.source, config.timeout);
            let causes = causes(daemon);
            // Not on standard output, which has the explanations. Errors can be ignored.
            let _ = writeln!(
                std::io::stderr(),
                "waiting up to {timeout:?} (--timeout) for the feed {source}: {causes}"
            );
        }
    }
}

fn too_late(config: &Config, daemon: &Daemon) -> Failure {
    let (source, timeout) = (&config.feed.source, config.timeout);
    let causes = causes(daemon);
    let what = format!(
        "the feed {source} did not list its objects within {timeout:?}: {causes}; is it running? \
         Use --feed for another feed or a folder"
    );
    Failure::Failed { what, source: None }
}

/// What the feed has not listed yet, and why; each cause once.
fn causes(daemon: &Daemon) -> String {
    let unlisted = feed::unlisted(daemon);
    let told = unlisted.iter().map(|one| format!("{}: {}", one.kinds.join(", "), one.cause));
    let causes: Vec<String> =
        if unlisted.is_empty() { daemon.readiness.reasons() } else { told.collect() };
    causes.join("; ")
}

/// The message about a feed that cannot be reached, or that refuses to list something.
fn refused(source: &str, unlisted: &Unlisted) -> String {
    let Unlisted { cause, kinds, .. } = unlisted;
    let is_answer = cause.starts_with(|c: char| c.is_ascii_digit());
    if is_answer {
        return format!("the feed {source} does not list {}: {cause}", kinds.join(", "));
    }
    let cause = cause.strip_prefix(&format!("{}/: ", source.trim_end_matches('/')));
    let cause = cause.unwrap_or(&unlisted.cause);
    format!(
        "the feed {source} cannot be reached: {cause}; is it running? Use --feed for another feed \
         or a folder"
    )
}

fn as_text(explanation: &Explanation) -> String {
    let Explanation { target, answer, to, endpoints, because, lost, trouble, .. } = explanation;
    let mut text = format!("{target}: {answer}\n");
    let mut line = |label: &str, value: &str| text.push_str(&format!("  {label:<9}{value}\n"));
    if let Some(trouble) = trouble {
        line("cause:", &trouble.cause);
        line("fix:", &trouble.fix);
    }
    if let Some(to) = to {
        line("to", to);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        line(if index == 0 { "by" } else { "" }, endpoint);
    }
    for (index, reason) in because.iter().enumerate() {
        line(if index == 0 { "because" } else { "" }, reason);
    }
    for (index, rule) in lost.iter().enumerate() {
        line(if index == 0 { "not by" } else { "" }, rule);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_that_does_not_list_is_told_with_its_cause() {
        let check = |cause: &str, expected: &str| {
            let kinds = vec!["Ingress".to_owned(), "Service".to_owned()];
            let unlisted = Unlisted { cause: cause.to_owned(), kinds, may_pass: false };
            assert_eq!(refused("http://127.0.0.1:7400", &unlisted), expected);
        };
        check(
            "http://127.0.0.1:7400/: Connection refused (os error 111)",
            "the feed http://127.0.0.1:7400 cannot be reached: Connection refused (os error 111); \
             is it running? Use --feed for another feed or a folder",
        );
        check(
            "403 forbidden; give --feed-token-file",
            "the feed http://127.0.0.1:7400 does not list Ingress, Service: 403 forbidden; give \
             --feed-token-file",
        );
    }
}
