//! Models and changes → frontends and what was touched.

use model::{Kind, Object, ObjectKey, Protocol};
use proptest::prelude::*;

use super::*;
use crate::objects::{self, port};
use crate::resolver::Family;

fn node() -> Node {
    Node { families: vec![Family::V4], ..Node::default() }
}

fn service(name: &str, last: u8, ports: &[u16]) -> Object {
    let ports = ports.iter().map(|p| port(&format!("p{p}"), *p, Protocol::Tcp, None)).collect();
    Object::Service(Arc::new(objects::service(name, &[&format!("127.1.0.{last}")], ports)))
}

fn slice(service: &str, port: u16, last: u8) -> Object {
    let ports = [(&*format!("p{port}"), Protocol::Tcp, port)];
    let endpoint = format!("10.0.0.{last}");
    Object::EndpointSlice(Arc::new(objects::slice(service, service, &ports, &[&endpoint])))
}

/// A model with the snapshot that follows it.
#[derive(Default)]
struct Followed {
    model: Model,
    snapshot: Snapshot,
}

impl Followed {
    /// Applies objects and deletes Services; the touched addresses as text.
    fn change(&mut self, apply: Vec<Object>, delete: &[(Kind, &str)]) -> Vec<String> {
        let mut changes = model::Changes::default();
        for object in apply {
            self.model.apply(object, &mut changes);
        }
        for (kind, name) in delete {
            let key = ObjectKey { kind: *kind, name: ObjectName::new("demo", name) };
            self.model.delete(&key, &mut changes);
        }
        let generation = self.snapshot.generation + 1;
        let (next, touched) =
            self.snapshot.next(&self.model, &changes.services, &node(), generation);
        self.snapshot = next;
        touched.iter().map(ToString::to_string).collect()
    }

    fn owners(&self) -> Vec<String> {
        let print = |f: &Arc<Frontend>| format!("{} {}", f.address, f.service.name);
        self.snapshot.frontends().map(print).collect()
    }
}

#[test]
fn only_what_changed_is_touched() {
    let mut followed = Followed::default();
    let objects = vec![service("a", 1, &[80, 81]), service("b", 2, &[80]), slice("b", 80, 1)];
    let all = ["127.1.0.1:80/TCP", "127.1.0.1:81/TCP", "127.1.0.2:80/TCP"];
    assert_eq!(followed.change(objects, &[]), all);
    assert_eq!(followed.change(vec![slice("a", 80, 9)], &[]), ["127.1.0.1:80/TCP"]);
    assert_eq!(followed.change(vec![slice("a", 82, 9)], &[]), ["127.1.0.1:80/TCP"]);
    assert_eq!(followed.change(vec![slice("none", 80, 9)], &[]), [""; 0]);
    let moved = followed.change(vec![service("a", 1, &[81, 82])], &[]);
    assert_eq!(moved, ["127.1.0.1:80/TCP", "127.1.0.1:82/TCP"]);
    assert_eq!(followed.change(vec![], &[(Kind::Service, "b")]), ["127.1.0.2:80/TCP"]);
    assert_eq!(followed.owners(), ["127.1.0.1:81/TCP a", "127.1.0.1:82/TCP a"]);
    assert_eq!(followed.snapshot.generation, 6);
    assert!(followed.snapshot.has_service(&ObjectName::new("demo", "a")));
    assert!(!followed.snapshot.has_service(&ObjectName::new("demo", "b")));
}

#[test]
fn the_first_by_name_has_an_address_whatever_came_first() {
    let mut followed = Followed::default();
    followed.change(vec![service("m", 1, &[80])], &[]);
    // A later claim by a later name changes nothing for clients.
    assert_eq!(followed.change(vec![service("z", 1, &[80, 81])], &[]), ["127.1.0.1:81/TCP"]);
    assert_eq!(followed.owners(), ["127.1.0.1:80/TCP m", "127.1.0.1:81/TCP z"]);
    let out: Vec<_> = followed.snapshot.crowded_out().map(|f| f.service.to_string()).collect();
    assert_eq!(out, ["demo/z"]);
    assert_eq!(followed.change(vec![service("a", 1, &[80])], &[]), ["127.1.0.1:80/TCP"]);
    assert_eq!(followed.owners(), ["127.1.0.1:80/TCP a", "127.1.0.1:81/TCP z"]);
    followed.change(vec![], &[(Kind::Service, "a"), (Kind::Service, "m")]);
    assert_eq!(followed.owners(), ["127.1.0.1:80/TCP z", "127.1.0.1:81/TCP z"]);
    assert_eq!(followed.snapshot.crowded_out().count(), 0);
}

proptest! {
    /// Whatever came before, the snapshot equals one made of the model at once, and names every
    /// address whose frontend differs from before.
    #[test]
    fn following_equals_starting_afresh(
        steps in prop::collection::vec((0_u8..4, 1_u8..4, 0_usize..4, any::<bool>()), 1..25),
    ) {
        let mut followed = Followed::default();
        for (name, last, ports, slices) in steps {
            let name = ["a", "b", "c", "d"][name as usize];
            let before = followed.snapshot.clone();
            let touched: BTreeSet<String> = if slices {
                followed.change(vec![slice(name, 80, last)], &[]).into_iter().collect()
            } else if ports == 0 {
                followed.change(vec![], &[(Kind::Service, name)]).into_iter().collect()
            } else {
                let ports = &[80, 81, 82][..ports];
                followed.change(vec![service(name, last, ports)], &[]).into_iter().collect()
            };
            let all = followed.model.services().map(|e| e.service.name.clone()).collect();
            let (fresh, _) = Snapshot::default().next(&followed.model, &all, &node(), 1);
            let list = |s: &Snapshot| s.frontends().cloned().collect::<Vec<_>>();
            prop_assert_eq!(list(&followed.snapshot), list(&fresh));
            let crowded = |s: &Snapshot| s.crowded_out().cloned().collect::<Vec<_>>();
            prop_assert_eq!(crowded(&followed.snapshot), crowded(&fresh));
            let addresses: BTreeSet<_> =
                list(&before).iter().chain(&list(&fresh)).map(|f| f.address).collect();
            let differ: BTreeSet<String> = addresses
                .iter()
                .filter(|address| before.frontend(address) != fresh.frontend(address))
                .map(ToString::to_string)
                .collect();
            prop_assert_eq!(touched, differ);
        }
    }
}
