//! Questions and replies as text, by another codec than ours. The tests of the whole process use
//! this file too.
//!
//! Replies are shown as text, with `Z` for `cluster.local`: the code, then a line for each record,
//! with `+` before those of the authority section and `*` before the additional ones. An SOA with
//! the expected numbers is shown as `SOA`; its serial may be any.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

pub(crate) const DOMAIN: &str = "cluster.local";

/// The message that asks `<name> <type>`, for example `svc1.testns.svc.Z A`.
pub(crate) fn question(question: &str) -> Message {
    let (name, rtype) = question.split_once(' ').unwrap();
    let name = name.strip_suffix('Z').map_or(name.to_owned(), |host| format!("{host}{DOMAIN}"));
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    // Not `from_ascii`, which refuses names that clients may send.
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
            let numbers = (soa.refresh, soa.retry, soa.expire, soa.minimum);
            assert_eq!((text.as_str(), numbers), SOA, "{name}");
            String::new()
        }
        RData::CNAME(name) => format!(" {}", short(name)),
        RData::PTR(name) => format!(" {}", short(name)),
        RData::NS(name) => format!(" {}", short(name)),
        RData::SRV(srv) => {
            format!(" {} {} {} {}", srv.priority, srv.weight, srv.port, short(&srv.target))
        }
        data => format!(" {}", data.to_string().trim_end()),
    };
    format!("{name} {} {}{data}", record.ttl, record.record_type())
}

/// The names and numbers of the SOA without the serial, for a TTL of 5.
type Soa = (&'static str, (i32, i32, i32, u32));
const SOA: Soa = ("ns.dns.Z hostmaster.Z", (7200, 1800, 86400, 5));

fn short(name: &Name) -> String {
    let name = name.to_string();
    let name = name.strip_suffix('.').unwrap_or(&name);
    match name.strip_suffix(DOMAIN) {
        Some(rest) => format!("{rest}Z"),
        None => name.to_owned(),
    }
}

/// The questions of a table, with the lines of the expected answers.
pub(crate) fn rows(table: &str) -> Vec<(&str, Vec<&str>)> {
    let mut rows: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(expected) = line.strip_prefix("    ") else {
            rows.push((line, Vec::new()));
            continue;
        };
        let (_, lines) = rows.last_mut().unwrap();
        match expected {
            "NODATA" => lines.extend(["NoError", "+Z 5 SOA"]),
            "NXDOMAIN" => lines.extend(["NXDomain", "+Z 5 SOA"]),
            line => lines.push(line),
        }
    }
    rows
}
