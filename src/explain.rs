//! `switchyard explain TARGET`: what becomes of a URL, a name or an address, and why.
//!
//! It follows the feed like the process that would serve the target, until everything is listed,
//! and asks that process's crate. Left out: sending anything.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use daemon::{Daemon, Failure};
use feed::{Explanation, Kinds, Protocol, Update};
use http::Uri;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Config {
    /// What to explain: a URL as `http://shop.example/api`, a DNS name as
    /// `web.shop.svc.cluster.local`, or IP:PORT, with /udp for UDP (10.96.0.10:53/udp)
    #[arg(required = true, value_name = "TARGET")]
    targets: Vec<Target>,

    #[command(flatten)]
    feed: feed::Config,

    /// How to print; as JSON, each target is one line
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

    /// The proxy's --node-name; default: the host's name
    #[arg(long, env = "SWITCHYARD_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,

    /// The proxy's --node-ip
    #[arg(long, env = "SWITCHYARD_NODE_IP", value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Url(Uri),
    Address(SocketAddr, Protocol),
    Name(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        if text.contains("://") {
            let url: Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
            let is_http = matches!(url.scheme_str(), Some("http" | "https"));
            return match url.host() {
                Some(host) if is_http && !host.is_empty() => Ok(Target::Url(url)),
                _ => Err("write http://HOST/PATH or https://HOST/PATH".to_owned()),
            };
        }
        let (address, protocol) = match text.rsplit_once('/') {
            Some((address, "udp")) => (address, Protocol::Udp),
            Some((address, "tcp")) => (address, Protocol::Tcp),
            Some(_) => return Err("a URL begins with http:// or https://".to_owned()),
            None => (text, Protocol::Tcp),
        };
        if let Ok(address) = address.parse() {
            return Ok(Target::Address(address, protocol));
        }
        if address.parse::<IpAddr>().is_ok() {
            return Err("write IP:PORT, of IPv6 [IP]:PORT".to_owned());
        }
        if text.is_empty() || text.contains([':', '/', ' ']) {
            return Err("write a URL, a DNS name, or IP:PORT".to_owned());
        }
        Ok(Target::Name(text.to_owned()))
    }
}

impl Target {
    /// The kinds that the process follows which serves it.
    fn kinds(&self) -> Kinds {
        match self {
            Target::Url(url) => {
                let ingress = ingress::KINDS;
                let is_name = url.host().is_some_and(|host| host.contains(".svc."));
                let is_ip = url
                    .host()
                    .is_some_and(|host| host.starts_with('[') || host.parse::<IpAddr>().is_ok());
                match (is_ip, is_name) {
                    (true, _) => ingress.and(proxy::KINDS),
                    (_, true) => ingress.and(proxy::KINDS).and(dns::KINDS),
                    _ => ingress,
                }
            }
            Target::Address(..) => proxy::KINDS,
            Target::Name(_) => dns::KINDS,
        }
    }
}

/// Prints the explanation.
///
/// # Errors
///
/// When the feed cannot work, or lists nothing in time.
pub(crate) async fn run(config: Config) -> Result<(), Failure> {
    let daemon = Daemon::detached("explain", 1);
    let update = first_update(&config, &daemon).await?;
    let rejected = rejected(&daemon);
    let mut out = std::io::stdout().lock();
    for target in &config.targets {
        let mut explanation = explain(&config, target, &update)?;
        note_rejected(&mut explanation, target, &rejected);
        let text = match config.output {
            Output::Text => as_text(&explanation),
            Output::Json => {
                let json = serde_json::to_string(&explanation);
                json.map_err(|error| Failure::failed("cannot print", error))? + "\n"
            }
        };
        let printed = out.write_all(text.as_bytes());
        printed.map_err(|error| Failure::failed("cannot print", error))?;
    }
    Ok(())
}

fn explain(config: &Config, target: &Target, update: &Update) -> Result<Explanation, Failure> {
    match target {
        Target::Url(url) => match of_service(config, update, url)? {
            Some(explanation) => Ok(explanation),
            None => ingress::explain(update, &config.ingress_class, url),
        },
        Target::Address(address, protocol) => {
            Ok(proxy::explain(update, &node_of(config), *address, *protocol))
        }
        Target::Name(name) => dns::explain(update, &Responder::of(&config.domain)?, name),
    }
}

fn node_of(config: &Config) -> proxy::resolver::Node {
    proxy::node_of(config.node_name.as_deref(), &config.node_ip)
}

/// Of a URL whose host is a Service's name or address: that goes to the proxy, not the ingress.
fn of_service(config: &Config, update: &Update, url: &Uri) -> Result<Option<Explanation>, Failure> {
    let host = url.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut because = Vec::new();
    let ip = match bare.parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if !bare.ends_with(&format!(".svc.{}", config.domain)) => return Ok(None),
        Err(_) => {
            let named = dns::explain(update, &Responder::of(&config.domain)?, bare)?;
            let address = named.endpoints.iter().find_map(|data| data.strip_prefix("A "));
            let Some(ip) = address.and_then(|ip| ip.parse().ok()) else {
                return Ok(Some(Explanation { target: url.to_string(), ..named }));
            };
            because = named.because;
            ip
        }
    };
    let usual = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let address = SocketAddr::new(ip, url.port_u16().unwrap_or(usual));
    let mut explanation = proxy::explain(update, &node_of(config), address, Protocol::Tcp);
    if explanation.to.is_none() && because.is_empty() {
        return Ok(None);
    }
    because.append(&mut explanation.because);
    Ok(Some(Explanation { target: url.to_string(), because, ..explanation }))
}

/// The responder's own flags: by its environment, as it would have them.
#[derive(Debug, clap::Parser)]
struct Responder {
    #[command(flatten)]
    config: dns::Config,
}

impl Responder {
    fn of(domain: &str) -> Result<dns::Config, Failure> {
        let parsed = Responder::try_parse_from(["dns", "--domain", domain]);
        let responder = parsed.map_err(|error| Failure::Configuration(error.to_string()))?;
        Ok(responder.config)
    }
}

/// The first update that holds everything.
async fn first_update(config: &Config, daemon: &Daemon) -> Result<Update, Failure> {
    let kinds = config.targets.iter().map(Target::kinds).fold(Kinds::of(&[]), Kinds::and);
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
    match tokio::time::timeout(config.timeout, synced).await {
        Ok(Some(update)) => Ok(update),
        _ => {
            let reasons = daemon.readiness.reasons().join("; ");
            let what = format!("the feed listed nothing within {:?}: {reasons}", config.timeout);
            Err(Failure::Failed { what, source: None })
        }
    }
}

/// An object of the feed that is not served: its name, and what is wrong.
struct Rejected {
    object: String,
    problem: String,
}

fn rejected(daemon: &Daemon) -> Vec<Rejected> {
    let status = daemon.admin.status();
    let list = status.get("feed").and_then(|feed| feed["rejected"].as_array().cloned());
    let errors = list.into_iter().flatten().filter(|report| report["level"] != "warning");
    let text = |report: &serde_json::Value, field: &str| {
        report[field].as_str().map(str::to_owned).filter(|text| !text.is_empty())
    };
    let of = |report: serde_json::Value| {
        let said = [text(&report, "message"), text(&report, "help")];
        let problem = said.into_iter().flatten().collect::<Vec<_>>().join("; ");
        Rejected { object: text(&report, "object").unwrap_or_default(), problem }
    };
    errors.map(of).collect()
}

/// Names the rejected objects that speak of the target; where something is wrong, all of them.
fn note_rejected(explanation: &mut Explanation, target: &Target, rejected: &[Rejected]) {
    const NAMED: usize = 5;
    let word = match target {
        Target::Address(address, _) => address.port().to_string(),
        Target::Url(url) => url.host().unwrap_or_default().to_owned(),
        Target::Name(name) => name.split('.').next().unwrap_or_default().to_owned(),
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let speaks_of = |rejected: &&Rejected| {
        let Rejected { object, problem } = rejected;
        let mut words = object.split(|c| !is_part(c)).chain(problem.split(|c| !is_part(c)));
        words.any(|other| other.trim_matches('.') == word)
    };
    let all = explanation.trouble.is_some();
    let told = rejected.iter().filter(|rejected| all || speaks_of(rejected));
    let told = told.take(NAMED).map(|r| format!("rejected: {}: {}", r.object, r.problem));
    explanation.lost.extend(told);
}

fn as_text(explanation: &Explanation) -> String {
    let Explanation { target, answer, to, endpoints, because, lost, trouble } = explanation;
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
    fn targets() {
        let address = |text: &str, protocol| Ok(Target::Address(text.parse().unwrap(), protocol));
        let url = |text: &str| Ok(Target::Url(text.parse().unwrap()));
        let name = |text: &str| Ok(Target::Name(text.to_owned()));
        let table = [
            ("http://shop.example/api", url("http://shop.example/api")),
            ("https://[::1]:8443/", url("https://[::1]:8443/")),
            ("10.96.0.10:80", address("10.96.0.10:80", Protocol::Tcp)),
            ("10.96.0.10:53/udp", address("10.96.0.10:53", Protocol::Udp)),
            ("[::1]:80/tcp", address("[::1]:80", Protocol::Tcp)),
            ("web", name("web")),
            (
                "_http._tcp.web.shop.svc.cluster.local.",
                name("_http._tcp.web.shop.svc.cluster.local."),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for text in ["", "ftp://a/", "http:///a", "10.96.0.10", "a/b", "a:80", "a b", "1.2.3.4:x"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
