//! Hosts as they come, resolve, fail and go: what is looked up when, and the endpoints of it.

use super::*;
use model::{Address, Details, Endpoint, Object, SlicePort};

const AGE: Duration = Duration::from_secs(3);

fn slice(name: &str, hosts: &[&str]) -> Object {
    let endpoint =
        |host: &&str| Endpoint::ready_with(vec![Address::Host((*host).into())], Details::default());
    let port = SlicePort {
        name: "http".into(),
        protocol: model::Protocol::Tcp,
        port: std::num::NonZeroU16::new(8080),
        app_protocol: None,
    };
    Object::EndpointSlice(Arc::new(EndpointSlice {
        name: ObjectName::new("shop", name),
        service: "web".into(),
        address_type: AddressType::Fqdn,
        ports: vec![port],
        endpoints: hosts.iter().map(endpoint).collect(),
    }))
}

/// A table beside the model that it follows.
struct World {
    table: Table,
    model: Model,
    now: Instant,
}

impl World {
    fn new(local_endpoints: bool) -> World {
        let now = Instant::now();
        World { table: Table::new(local_endpoints), model: Model::default(), now }
    }

    fn apply(&mut self, object: Object) {
        let mut changes = Changes::default();
        self.model.apply(object, &mut changes);
        self.table.follow(&self.model, &changes, self.now);
    }

    fn delete(&mut self, name: &str) {
        let mut changes = Changes::default();
        let key = model::ObjectKey {
            kind: model::Kind::EndpointSlice,
            name: ObjectName::new("shop", name),
        };
        self.model.delete(&key, &mut changes);
        self.table.follow(&self.model, &changes, self.now);
    }

    /// Whether anybody's endpoints changed by it.
    fn learn(&mut self, host: &str, outcome: Outcome) -> bool {
        !self.table.learn(&host.into(), outcome, self.now).is_empty()
    }

    fn found(&mut self, host: &str, ips: &[&str]) -> bool {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.learn(host, Outcome::Found(ips, AGE))
    }

    /// Hosts that are due after that time, in their order.
    fn due_after(&mut self, seconds: u64) -> Vec<String> {
        self.now += Duration::from_secs(seconds);
        std::iter::from_fn(|| self.table.take_due(self.now)).map(|host| host.to_string()).collect()
    }

    /// The addresses that a consumer sees.
    fn addresses(&self) -> String {
        let model = self.model.with_resolved(self.table.slices());
        let slices = model.slices_of(&ObjectName::new("shop", "web"));
        let ips = slices.iter().flat_map(|slice| {
            assert_ne!(slice.address_type, AddressType::Fqdn);
            assert_eq!(slice.ports[0].port.map(u16::from), Some(8080));
            slice.endpoints.iter().filter_map(Endpoint::ip).map(|ip| ip.to_string())
        });
        ips.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn hosts_become_addresses_and_are_asked_again_as_they_expire() {
    let mut world = World::new(true);
    world.apply(slice("web-1", &["a", "b"]));
    assert!(world.table.has_unasked());
    assert_eq!(world.due_after(0), ["a", "b"]);
    assert_eq!(world.addresses(), "");
    assert!(world.found("a", &["10.0.0.1", "2001:db8::1"]));
    assert!(world.table.has_unasked());
    assert!(world.found("b", &["10.0.0.2"]));
    assert!(!world.table.has_unasked());
    assert_eq!(world.addresses(), "10.0.0.1 10.0.0.2 2001:db8::1");
    assert_eq!(world.due_after(2), Vec::<String>::new());
    assert_eq!(world.due_after(1), ["a", "b"]);
    assert!(!world.found("a", &["10.0.0.1", "2001:db8::1"]), "the same again is no change");
    assert!(world.found("b", &["10.0.0.9"]));
    assert_eq!(world.addresses(), "10.0.0.1 10.0.0.9 2001:db8::1");
}

#[test]
fn a_host_that_is_gone_has_no_endpoints_and_one_that_cannot_be_asked_keeps_them() {
    let mut world = World::new(true);
    world.apply(slice("web-1", &["a"]));
    world.due_after(0);
    world.found("a", &["10.0.0.1"]);
    // Nobody can say: asked again after 1, 2, 4, 8 and 8 seconds.
    for wait in [1, 2, 4, 8, 8] {
        assert!(!world.learn("a", Outcome::Failed("timed out".into())));
        assert_eq!(world.addresses(), "10.0.0.1");
        assert_eq!(world.due_after(wait - 1), Vec::<String>::new(), "{wait}");
        assert_eq!(world.due_after(1), ["a"], "{wait}");
    }
    assert_eq!(&**world.table.faults().get("a").unwrap(), "timed out");
    assert!(world.learn("a", Outcome::None));
    assert_eq!(world.addresses(), "");
    assert_eq!(&**world.table.faults().get("a").unwrap(), "no such host");
    assert_eq!(world.due_after(1), ["a"]);
    assert!(world.found("a", &["10.0.0.2"]));
    assert!(world.table.faults().is_empty());
    // After a success the waits begin anew.
    world.due_after(3);
    world.learn("a", Outcome::Failed("timed out".into()));
    assert_eq!(world.due_after(1), ["a"]);
}

#[test]
fn hosts_are_shared_and_go_with_their_last_user() {
    let mut world = World::new(true);
    world.apply(slice("web-1", &["a", "b"]));
    world.apply(slice("web-2", &["b", "c"]));
    assert_eq!(world.table.len(), 3);
    world.due_after(0);
    world.found("b", &["10.0.0.2"]);
    assert_eq!(world.addresses(), "10.0.0.2 10.0.0.2", "once in each slice");
    world.delete("web-1");
    assert_eq!(world.table.len(), 2);
    assert_eq!(world.addresses(), "10.0.0.2");
    assert!(!world.found("a", &["10.0.0.1"]), "nobody names it any more");
    world.delete("web-2");
    assert_eq!((world.table.len(), world.addresses().as_str()), (0, ""));
    assert!(!world.table.has_unasked());
    assert_eq!(world.due_after(60), Vec::<String>::new());
}

#[test]
fn other_slices_of_the_service_stay_as_they_are() {
    let mut world = World::new(true);
    let Object::EndpointSlice(named) = slice("web-2", &["a"]) else { unreachable!() };
    let numbered = EndpointSlice {
        name: ObjectName::new("shop", "web-1"),
        address_type: AddressType::Ipv4,
        endpoints: vec![Endpoint::ready_at([10, 0, 0, 1].into())],
        ..EndpointSlice::clone(&named)
    };
    world.apply(Object::EndpointSlice(Arc::new(numbered)));
    assert_eq!(world.table.len(), 0);
    world.apply(Object::EndpointSlice(named));
    world.due_after(0);
    assert_eq!(world.addresses(), "10.0.0.1");
    world.found("a", &["10.0.0.2"]);
    assert_eq!(world.addresses(), "10.0.0.1 10.0.0.2");
    world.delete("web-2");
    assert_eq!(world.addresses(), "10.0.0.1");
}

#[test]
fn a_feed_elsewhere_names_no_endpoint_of_this_machine() {
    for (allowed, addresses) in [(false, "10.0.0.1"), (true, "10.0.0.1 127.0.0.1 169.254.0.1 ::1")]
    {
        let mut world = World::new(allowed);
        world.apply(slice("web-1", &["a"]));
        world.due_after(0);
        world.found("a", &["10.0.0.1", "127.0.0.1", "169.254.0.1", "::1"]);
        assert_eq!(world.addresses(), addresses);
        assert_eq!(world.table.faults().contains_key("a"), !allowed);
    }
}

#[test]
fn a_host_whose_first_lookup_is_unanswered_is_a_fault_until_it_is_answered() {
    let mut world = World::new(false);
    world.apply(slice("web", &["web-1", "web-2"]));
    world.found("web-2", &["10.0.0.2"]);
    let silent = world.table.note_silence("no answer from 192.0.2.53:53");
    assert_eq!(silent, [Arc::from("web-1")]);
    let faults = |world: &World| -> Vec<String> {
        let faults = world.table.faults().iter();
        faults.map(|(host, fault)| format!("{host}: {fault}")).collect()
    };
    assert_eq!(faults(&world), ["web-1: no answer from 192.0.2.53:53"]);
    world.found("web-1", &["10.0.0.1"]);
    assert_eq!(faults(&world), [""; 0]);
}
