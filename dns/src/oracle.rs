//! For tests: asks as a client would and reads replies with another codec than ours.
//!
//! Replies are shown as text, with `Z` for `cluster.local`: the code, then a line a record,
//! `+` before those of the authority section and `*` before the additional ones. An SOA whose
//! numbers are as they must be is shown as `SOA` alone.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::respond::{Outcome, Policy, respond};
use crate::wire::Query;
use crate::wire::reply::Transport;
use crate::zone::Zone;

pub(crate) const DOMAIN: &str = "cluster.local";

/// The message that asks `<name> <type>`, for example `svc1.testns.svc.Z A`.
pub(crate) fn question(question: &str) -> Message {
    let (name, rtype) = question.split_once(' ').unwrap();
    let name = name.strip_suffix('Z').map_or(name.to_owned(), |host| format!("{host}{DOMAIN}"));
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // Not `from_ascii`: it refuses what a client may well send.
    let labels = name.trim_end_matches('.').split('.').map(|label| label.as_bytes());
    let mut query = Question::query(Name::from_labels(labels).unwrap(), type_of(rtype));
    query.set_query_class(DNSClass::IN);
    query.name.set_fqdn(true);
    message.add_query(query);
    message
}

pub(crate) fn with_edns(mut message: Message, udp_size: u16, dnssec_ok: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(udp_size).set_version(0).set_dnssec_ok(dnssec_ok);
    message.set_edns(edns);
    message
}

fn type_of(text: &str) -> RecordType {
    match text.strip_prefix("TYPE") {
        Some(number) => RecordType::from(number.parse::<u16>().unwrap()),
        None => text.parse().unwrap(),
    }
}

/// What a packet of these bytes gets: the reply's bytes, or what else is done.
pub(crate) fn send(
    zone: &Zone,
    policy: Policy,
    packet: &[u8],
    transport: Transport,
) -> Result<Vec<u8>, Outcome> {
    let mut buf = vec![0xee; 65_535];
    buf[..packet.len()].copy_from_slice(packet);
    match respond(zone, policy, &mut Query::new(), &mut buf, packet.len(), transport, 0) {
        Outcome::Reply(len, _) => {
            buf.truncate(len);
            Ok(buf)
        }
        other => Err(other),
    }
}

/// Asks and reads, and checks what must hold for every reply to a valid query.
pub(crate) fn ask(zone: &Zone, message: &Message, transport: Transport) -> Message {
    let packet = message.to_vec().unwrap();
    let reply = send(zone, Policy::default(), &packet, transport).expect("a reply");
    let reply = Message::from_vec(&reply).expect("a reply that another codec can read");
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert_eq!(reply.metadata.recursion_desired, message.metadata.recursion_desired);
    assert_eq!(reply.queries, message.queries);
    let (asked, echoed) = (message.queries[0].name(), reply.queries[0].name());
    assert!(asked.eq_case(echoed), "the case of {asked} was lost: {echoed}");
    assert_eq!(message.edns.is_some(), reply.edns.is_some());
    reply
}

/// A reply as text.
pub(crate) fn show(reply: &Message) -> Vec<String> {
    let mut lines = vec![format!("{:?}", reply.metadata.response_code)];
    let sections = [("", &reply.answers), ("+", &reply.authorities), ("*", &reply.additionals)];
    for (mark, records) in sections {
        lines.extend(records.iter().map(|record| format!("{mark}{}", show_record(record))));
    }
    lines
}

fn show_record(record: &Record) -> String {
    let name = short(&record.name);
    let data = match &record.data {
        RData::SOA(soa) => {
            let text = short(&soa.mname) + " " + &short(&soa.rname);
            let numbers = (soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum);
            assert_eq!((text.as_str(), numbers), SOA, "{name}");
            String::new()
        }
        RData::CNAME(name) => format!(" {}", short(name)),
        RData::PTR(name) => format!(" {}", short(name)),
        RData::NS(name) => format!(" {}", short(name)),
        RData::SRV(srv) => {
            format!(" {} {} {} {}", srv.priority, srv.weight, srv.port, short(&srv.target))
        }
        data => format!(" {data}"),
    };
    format!("{name} {} {}{data}", record.ttl, record.record_type())
}

/// Names of the SOA and its numbers, for a zone of serial 7 and TTL 5.
type Soa = (&'static str, (u32, i32, i32, i32, u32));
const SOA: Soa = ("ns.dns.Z hostmaster.Z", (7, 7200, 1800, 86400, 5));

fn short(name: &Name) -> String {
    let name = name.to_string();
    let name = name.strip_suffix('.').unwrap_or(&name);
    match name.strip_suffix(DOMAIN) {
        Some(rest) => format!("{rest}Z"),
        None => name.to_owned(),
    }
}
