//! Node ports and cluster IPs: what only one Service may have.
//!
//! A whole batch is settled at once, so that two Services may swap theirs in one scan. What a
//! Service has and keeps asking for is never taken from it.

use std::collections::{HashMap, HashSet};

use super::file::Definition;
use crate::path::FilePath;
use model::manifest::Claim;
use model::record::Record;
use model::{ObjectKey, ObjectName, Protocol};

#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Claim, ObjectName>);

/// What a Service of this batch had and asks for now.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) key: ObjectKey,
    pub(super) had: Vec<Claim>,
    pub(super) asks: Vec<Claim>,
    pub(super) wanted: Option<(FilePath, Record)>,
    /// Where in its file that stands.
    pub(super) line: u32,
}

type Verdict = Result<(), (Claim, ObjectName)>;

/// The claims of a record.
pub(super) fn of(record: &Record) -> Vec<Claim> {
    let Record::Service(record) = record else { return Vec::new() };
    let service = &record.service;
    let ips = service.cluster_ips.iter().map(|ip| Claim::ClusterIp(*ip));
    let ports = service.ports.iter();
    let ports = ports.filter_map(|port| Some(Claim::NodePort(port.node_port?, port.protocol)));
    // The health check listens beside the node ports, over TCP.
    let health_check = service.health_check_node_port;
    let health_check = health_check.map(|port| Claim::NodePort(port, Protocol::Tcp));
    ips.chain(ports).chain(health_check).collect()
}

/// What the API says to the one who comes second.
pub(super) fn message(claim: Claim, definition: &Definition) -> String {
    match claim {
        Claim::NodePort(port, _) => {
            let field = match definition.port_index(claim) {
                Some(index) => format!("spec.ports[{index}].nodePort"),
                None => "spec.healthCheckNodePort".to_owned(),
            };
            format!("{field}: Invalid value: {port}: provided port is already allocated")
        }
        Claim::ClusterIp(ip) => format!(
            "spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP \
             is already allocated"
        ),
    }
}

impl Claims {
    /// Decides a batch: each wish with whether it is granted. A Service whose wish is not keeps
    /// what it had. Newcomers come in the order of their paths, and of their lines.
    pub(super) fn settle(&mut self, mut wishes: Vec<Wish>) -> Vec<(Wish, Verdict)> {
        let path = |wish: &Wish| wish.wanted.as_ref().map(|(path, _)| path.clone());
        wishes.sort_by(|a, b| (path(a), a.line, &a.key).cmp(&(path(b), b.line, &b.key)));
        let mut refused: HashMap<usize, (Claim, ObjectName)> = HashMap::new();
        loop {
            let before = refused.len();
            let taken = self.round(&wishes, &mut refused);
            if refused.len() == before {
                self.commit(&wishes, &refused, taken);
                break;
            }
        }
        let verdicts = wishes.into_iter().enumerate();
        verdicts
            .map(|(i, wish)| {
                let verdict = refused.remove(&i).map_or(Ok(()), Err);
                (wish, verdict)
            })
            .collect()
    }

    /// Tries all wishes that are not refused yet, against what the others keep. A refused one
    /// gets back what it had, which may refuse another: so rounds follow until none is refused
    /// that had anything to get back.
    fn round(
        &self,
        wishes: &[Wish],
        refused: &mut HashMap<usize, (Claim, ObjectName)>,
    ) -> HashMap<Claim, ObjectName> {
        let released: HashSet<Claim> = wishes
            .iter()
            .enumerate()
            .filter(|(i, _)| !refused.contains_key(i))
            .flat_map(|(_, wish)| wish.had.iter().filter(|claim| !wish.asks.contains(claim)))
            .copied()
            .collect();
        let mut taken: HashMap<Claim, ObjectName> = HashMap::new();
        for (i, wish) in wishes.iter().enumerate() {
            if refused.contains_key(&i) {
                continue;
            }
            let name = &wish.key.name;
            let holder = |claim: &Claim| {
                let held = self.0.get(claim).filter(|_| !released.contains(claim));
                taken.get(claim).or(held).filter(|holder| *holder != name)
            };
            let conflict =
                wish.asks.iter().find_map(|claim| Some((*claim, holder(claim)?.clone())));
            if let Some(conflict) = conflict {
                refused.insert(i, conflict);
                continue;
            }
            taken.extend(wish.asks.iter().map(|claim| (*claim, name.clone())));
        }
        taken
    }

    fn commit(
        &mut self,
        wishes: &[Wish],
        refused: &HashMap<usize, (Claim, ObjectName)>,
        taken: HashMap<Claim, ObjectName>,
    ) {
        for (i, wish) in wishes.iter().enumerate() {
            if !refused.contains_key(&i) {
                for claim in &wish.had {
                    self.0.remove(claim);
                }
            }
        }
        self.0.extend(taken);
    }
}
