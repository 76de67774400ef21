//! The admin endpoint's `/cache?name=NAME&type=TYPE`: what the cache knows about a name.
//!
//! It only looks: nothing is asked, and the cache does not count it as a use.

use std::time::Instant;

use daemon::PageError;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

use crate::answered_by::AnsweredBy;
use crate::cache::stored::{Age, Stored};
use crate::cache::{Served, Shown};
use crate::cache_report::{
    AnswerReport, CacheReport, EntryReport, FailureReport, UpstreamReport, UpstreamState,
};
use crate::forward::question::Key;
use crate::forward::server::{Group, Server};
use crate::forward::upstreams::Forwarding;
use crate::local::Local;
use crate::record_text;
use crate::respond::outside::{room, serve};
use crate::respond::{Names, Outcome, Policy, respond};
use crate::wire::query::Edns;
use crate::wire::reply::Transport;
use crate::wire::{Class, HEADER_LEN, Name, Query, TCP_LIMIT, Type, UDP_EDNS_LIMIT, flag};
use crate::zone::Zone;

/// How the parameters are written.
const FORM: &str = "write /cache?name=NAME&type=TYPE (example: /cache?name=www.example.com&type=A)";

/// What a report is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheView<'a> {
    pub(crate) zone: &'a Zone,
    pub(crate) local: &'a Local,
    pub(crate) forwarding: &'a Forwarding,
}

/// The report for the query part of a target.
///
/// # Errors
///
/// When the parameters are wrong, or the name is not forwarded.
pub(crate) fn report(
    view: CacheView<'_>,
    target_query: &str,
    now: Instant,
) -> Result<CacheReport, PageError> {
    let (name, qtype) = parameters(target_query).map_err(PageError::BadRequest)?;
    is_forwarded(view, &name, qtype).map_err(PageError::NotFound)?;
    let CacheView { zone, forwarding, .. } = view;
    let route = forwarding.routes.route(&name);
    let group = forwarding.group_at(route.group);
    let zones = || forwarding.routes.zones().map(|(zone, _)| zone.to_string());
    let mut entries = Vec::new();
    for (dnssec_ok, checking_disabled) in
        [(false, false), (true, false), (false, true), (true, true)]
    {
        let query = question(&name, qtype, dnssec_ok, checking_disabled);
        let key = Key::new(&query, name.wire());
        let Some(shown) = forwarding.cache.peek(key.octets(), group.version, now) else { continue };
        let (answer, failure) = of_shown(&shown, zone, &query);
        if answer.is_some() || failure.is_some() {
            entries.push(EntryReport { dnssec_ok, checking_disabled, answer, failure });
        }
    }
    Ok(CacheReport {
        name: name.to_string(),
        record_type: qtype.to_string(),
        forward_zone: route.zone.and_then(|number| zones().nth(number)),
        upstreams: upstreams(&group),
        entries,
    })
}

/// The name and the type.
fn parameters(query: &str) -> Result<(Name, Type), String> {
    let (mut name, mut qtype) = (None, Type::A);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("name", text)) => {
                let of_names =
                    |octet: u8| octet.is_ascii_alphanumeric() || b"-_.*".contains(&octet);
                let parsed = Some(text).filter(|text| text.bytes().all(of_names));
                let parsed = parsed.and_then(Name::from_text);
                let text = text.escape_debug();
                name = Some(parsed.ok_or_else(|| format!("`{text}` is not a DNS name"))?);
            }
            Some(("type", text)) => {
                let text = text.to_ascii_uppercase();
                let number = text.strip_prefix("TYPE").and_then(|number| number.parse().ok());
                let named = || text.parse::<RecordType>().ok().map(u16::from);
                let number = number.or_else(named).ok_or_else(|| {
                    let text = text.escape_debug();
                    format!("`{text}` is not a record type (examples: A, AAAA, TYPE65)")
                })?;
                qtype = Type(number);
            }
            _ => return Err(format!("`{}` is not a parameter; {FORM}", parameter.escape_debug())),
        }
    }
    name.map(|name| (name, qtype)).ok_or_else(|| format!("the name is missing; {FORM}"))
}

/// Whether upstreams are asked about a name, or else who answers.
fn is_forwarded(view: CacheView<'_>, name: &Name, qtype: Type) -> Result<(), String> {
    let mut packet = packet(name, qtype);
    let len = packet.len();
    packet.resize(TCP_LIMIT, 0);
    let policy = Policy { forwards: view.forwarding.forwards(), tells_version: false };
    let names = Names { zone: view.zone, local: view.local };
    let mut query = Query::new();
    match respond(names, policy, &mut query, &mut packet, len, Transport::Tcp, 0) {
        Outcome::Forward => Ok(()),
        Outcome::Reply(_, _, AnsweredBy::Zone) => {
            Err(format!("{name} is in a zone of this server, whose answers are not cached"))
        }
        Outcome::Reply(_, _, AnsweredBy::Local) => Err(format!(
            "{name} is in the file of --hosts or is a special name: this server answers it \
             without asking others"
        )),
        Outcome::Follow(alias) => Err(format!(
            "{name} is an alias in a zone of this server: ask for its target, {}",
            alias.target
        )),
        Outcome::Reply(..) | Outcome::Silent => Err(format!(
            "{name} {qtype} is refused: there are no upstreams, or the type is not supported"
        )),
    }
}

/// A query over the wire.
fn packet(name: &Name, qtype: Type) -> Vec<u8> {
    let mut packet = vec![0; HEADER_LEN];
    packet[2..4].copy_from_slice(&flag::RD.to_be_bytes());
    packet[5] = 1;
    packet.extend_from_slice(name.wire());
    packet.extend_from_slice(&qtype.0.to_be_bytes());
    packet.extend_from_slice(&Class::IN.0.to_be_bytes());
    packet
}

/// A parsed query.
fn question(name: &Name, qtype: Type, dnssec_ok: bool, checking_disabled: bool) -> Query {
    let udp_size = UDP_EDNS_LIMIT as u16;
    Query {
        name: name.clone(),
        qtype,
        flags: if checking_disabled { flag::RD | flag::CD } else { flag::RD },
        question_end: HEADER_LEN + name.wire().len() + 4,
        edns: Some(Edns { udp_size, dnssec_ok, ..Edns::default() }),
        ..Query::new()
    }
}

fn of_shown(
    shown: &Shown,
    zone: &Zone,
    query: &Query,
) -> (Option<AnswerReport>, Option<FailureReport>) {
    let answer = shown.answer.as_ref().map(|(answer, age, left)| AnswerReport {
        rcode: answer.rcode.to_string(),
        data: data(answer, zone, query),
        age_seconds: age.as_secs(),
        ttl_seconds: answer.ttl.into(),
        ttl_left_seconds: left.map(|left| left.as_secs()),
        hits: shown.hits,
    });
    let failure = shown.failure.as_ref().map(|(failure, left)| FailureReport {
        rcode: failure.rcode.to_string(),
        extended_error: failure.error.as_ref().map(|error| error.code),
        left_ms: left.as_millis() as u64,
    });
    (answer, failure)
}

/// The answers of a reply with this answer.
fn data(answer: &Stored, zone: &Zone, query: &Query) -> Vec<String> {
    let served = Served::Answer(answer, Age::Fresh(0));
    let mut buf = packet(&query.name, query.qtype);
    buf.resize(room(&buf, Transport::Tcp, served), 0);
    let len = serve(zone, query, &mut buf, Transport::Tcp, served, 0).len;
    let reply = Message::from_vec(&buf[..len]);
    reply.map(|reply| reply.answers.iter().map(record_text::line).collect()).unwrap_or_default()
}

fn upstreams(group: &Group) -> Vec<UpstreamReport> {
    let state = |server: &Server| match (server.is_loop(), server.is_down()) {
        (true, _) => UpstreamState::Loop,
        (false, true) => UpstreamState::Down,
        (false, false) => UpstreamState::Up,
    };
    let servers = group.servers.iter();
    servers
        .map(|server| UpstreamReport { address: server.address.to_string(), state: state(server) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_page() {
        let check = |query: &str, expected: Result<(&str, u16), &str>| {
            let parsed = parameters(query).map(|(name, qtype)| (name.to_string(), qtype.0));
            match (parsed, expected) {
                (Ok((name, qtype)), Ok(expected)) => {
                    assert_eq!((name.as_str(), qtype), expected, "{query}");
                }
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{query}: {problem}"),
                (parsed, _) => panic!("{query}: {parsed:?}"),
            }
        };
        check("name=WWW.Example.com&type=aaaa", Ok(("www.example.com", 28)));
        check("type=TYPE65&name=a.", Ok(("a", 65)));
        check("name=_x._tcp.a", Ok(("_x._tcp.a", 1)));
        check("", Err("the name is missing; write /cache?name=NAME"));
        check("type=A", Err("the name is missing"));
        check("name=", Err("`` is not a DNS name"));
        check("name=a..b", Err("`a..b` is not a DNS name"));
        check("name=a%2eb", Err("`a%2eb` is not a DNS name"));
        check("name=a&type=NOPE", Err("`NOPE` is not a record type"));
        check("name=a&class=CH", Err("`class=CH` is not a parameter"));
    }
}
