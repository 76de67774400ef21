//! The names and addresses of a hosts(5) file.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::wire::reply::{Reply, Section};
use crate::wire::{Name, Rcode};
use crate::zone::Reverse;

use super::asked::Asked;

/// The names of a file, each with its addresses.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    /// By the name in wire form and lower case; in the order of the file.
    by_name: HashMap<Box<[u8]>, Vec<IpAddr>, RandomState>,
    /// The first name of each address, in wire form, as the file spells it.
    by_address: BTreeMap<IpAddr, Box<[u8]>>,
}

/// What is wrong with a line of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BadLine {
    pub(crate) number: usize,
    pub(crate) problem: String,
}

impl Hosts {
    /// The names of a file, and what is wrong with it. A line that is wrong is left out, except for
    /// the names in it that can be served. `domain` is our own, whose names are not taken from the
    /// file.
    pub(crate) fn parse(text: &str, domain: &Name) -> (Hosts, Vec<BadLine>) {
        let mut hosts = Hosts::default();
        let mut bad = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let mut report = |problem| bad.push(BadLine { number: index + 1, problem });
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(address) = words.next() else { continue };
            let Ok(ip) = address.parse() else {
                report(format!("`{}` is not an IP address", address.escape_debug()));
                continue;
            };
            let mut has_name = false;
            for word in words {
                has_name = true;
                if let Err(problem) = hosts.add(ip, word, domain) {
                    report(format!("`{}` {problem}", word.escape_debug()));
                }
            }
            if !has_name {
                report(format!("there is no name after {ip}"));
            }
        }
        (hosts, bad)
    }

    fn add(&mut self, ip: IpAddr, word: &str, domain: &Name) -> Result<(), String> {
        let of_names = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
        let name = Some(word).filter(|word| word.bytes().all(of_names)).and_then(Name::from_text);
        let name = name.ok_or("is not a DNS name")?;
        if name.labels_below(domain).is_some() {
            return Err(format!("is not served: names in {domain} come from the feed only"));
        }
        let ips = self.by_name.entry(name.wire().into()).or_default();
        if !ips.contains(&ip) {
            ips.push(ip);
        }
        self.by_address.entry(ip).or_insert_with(|| spelled(word));
        Ok(())
    }

    /// The number of names.
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether an address of that network has a name.
    pub(super) fn has_address_in(&self, net: &IpNet) -> bool {
        self.by_address.range(net.network()..=net.broadcast()).next().is_some()
    }

    /// Answers a question about a name or an address of the file.
    pub(super) fn answer(
        &self,
        asked: &Asked<'_>,
        ttl: u32,
        reply: &mut Reply<'_>,
    ) -> Option<Rcode> {
        if self.by_name.is_empty() {
            return None;
        }
        let is_answered = match self.by_name.get(asked.name.wire()) {
            Some(ips) => asked.addresses(ips.iter().copied(), ttl, reply),
            None => {
                let address = Reverse::parse(asked.name).and_then(|reverse| reverse.address())?;
                asked.names(self.by_address.get(&address)?, ttl, reply)
            }
        };
        if !is_answered && !asked.anything(ttl, reply) && !reply.is_truncated() {
            // Nothing is known about the names around it, so it is a zone of its own.
            asked.soa(0, Section::Authority, ttl, reply);
        }
        Some(Rcode::NOERROR)
    }
}

/// A name in wire form, with the letters as they are written.
fn spelled(word: &str) -> Box<[u8]> {
    let mut wire = Vec::with_capacity(word.len() + 2);
    for label in word.strip_suffix('.').unwrap_or(word).split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire.into()
}
