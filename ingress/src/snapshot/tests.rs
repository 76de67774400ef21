//! What models become, as tables.

use std::net::IpAddr;
use std::num::NonZeroU16;

use model::{
    AddressType, BackendPort, Changes, EndpointSlice, Ingress, IngressBackend, IngressClass,
    IngressPath, IngressRule, IngressTls, Model, Object, Protocol, Secret, Service, ServicePort,
    ServiceType, SlicePort, TargetPort,
};

use super::*;
use crate::route::normalise;

/// An X.509 version 1 certificate for the common name `T.Test`, as `openssl x509 -req` makes it
/// without extensions, and its key.
const V1_CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBQjCB6QIUT4FHvqwQC5lYZ3QItOxsUb3/6fswCgYIKoZIzj0EAwIwIzEQMA4G
A1UECgwHRXhhbXBsZTEPMA0GA1UEAwwGVC5UZXN0MCAXDTI2MTEzMDA5NDMwMFoY
DzIxMjYxMTA2MDk0MzAwWjAjMRAwDgYDVQQKDAdFeGFtcGxlMQ8wDQYDVQQDDAZU
LlRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARVmwnXzLzJ/XI19dt9bbKw
tTHrPnL+8gYn4CQuAu+gz2oYpJI1rUsx+oPbXTuUA5XFWIwwCM3mCZwF59iv6gTu
MAoGCCqGSM49BAMCA0gAMEUCIGAShPdnrQQl8ub8DOu6XVHaixd59qOfV7Hz0viU
nX4PAiEAxnmg8UU+2T7ExXO5KKdXTXqktMBvZVnd/a4qCPMbtqQ=
-----END CERTIFICATE-----
";
const V1_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg3bsPgy8Sna9MxfhY
ZTraL4djH3O8l9LSBVSjQrQJx+yhRANCAARVmwnXzLzJ/XI19dt9bbKwtTHrPnL+
8gYn4CQuAu+gz2oYpJI1rUsx+oPbXTuUA5XFWIwwCM3mCZwF59iv6gTu
-----END PRIVATE KEY-----
";

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// PEM certificate and key for these names.
fn pem(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn secret(name: &str, certificate: &str, key: &str) -> Object {
    let data = [("tls.crt", certificate), ("tls.key", key)];
    Object::Secret(Arc::new(Secret {
        name: ObjectName::new("default", name),
        secret_type: "kubernetes.io/tls".into(),
        data: data.into_iter().map(|(k, v)| (k.into(), v.as_bytes().to_vec().into())).collect(),
    }))
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn service(name: &str) -> Service {
    let port = |name: &str, port, protocol| ServicePort {
        name: name.into(),
        port: number(port),
        protocol,
        target_port: TargetPort::Number(number(port)),
        node_port: None,
        app_protocol: None,
    };
    Service {
        name: ObjectName::new("default", name),
        service_type: ServiceType::ClusterIp,
        cluster_ips: Vec::new(),
        headless: false,
        ports: vec![
            port("http", 80, Protocol::Tcp),
            port("admin", 81, Protocol::Tcp),
            port("dns", 53, Protocol::Udp),
        ],
        publish_not_ready_addresses: false,
        client_ip_affinity: None,
        internal_traffic_policy: model::TrafficPolicy::Cluster,
        external_traffic_policy: model::TrafficPolicy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        load_balancer_source_ranges: Vec::new(),
        health_check_node_port: None,
        traffic_distribution: None,
        foreign_proxy: false,
        annotations: Default::default(),
    }
}

fn endpoint(ip: &str) -> model::Endpoint {
    model::Endpoint::ready_at(ip.parse::<IpAddr>().unwrap())
}

/// A slice whose ports are the Service's numbers plus 8000.
fn slice(name: &str, service: &str, endpoints: Vec<model::Endpoint>) -> EndpointSlice {
    let port = |name: &str, port| SlicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        port: Some(number(port)),
        app_protocol: None,
    };
    EndpointSlice {
        name: ObjectName::new("default", name),
        service: service.into(),
        address_type: AddressType::Ipv4,
        ports: vec![port("http", 8080), port("admin", 8081)],
        endpoints,
    }
}

fn backend(service: &str) -> IngressBackend {
    IngressBackend { service: service.into(), port: BackendPort::Number(number(80)) }
}

fn rule(host: &str, paths: &[(PathType, &str, &str)]) -> IngressRule {
    let path = |(path_type, path, service): &(PathType, &str, &str)| IngressPath {
        path: (*path).into(),
        path_type: *path_type,
        backend: backend(service),
    };
    let host = (!host.is_empty()).then(|| host.into());
    IngressRule { host, paths: paths.iter().map(path).collect() }
}

fn ingress(name: &str, rules: Vec<IngressRule>) -> Ingress {
    Ingress {
        name: ObjectName::new("default", name),
        created_unix: None,
        class: Some("switchyard".into()),
        default_backend: None,
        rules,
        tls: Vec::new(),
        annotations: Default::default(),
    }
}

fn one_path(name: &str, host: &str, service: &str) -> Ingress {
    ingress(name, vec![rule(host, &[(PathType::Prefix, "/", service)])])
}

impl From<Ingress> for Obj {
    fn from(ingress: Ingress) -> Obj {
        Obj(Object::Ingress(Arc::new(ingress)))
    }
}

impl From<Service> for Obj {
    fn from(service: Service) -> Obj {
        Obj(Object::Service(Arc::new(service)))
    }
}

impl From<EndpointSlice> for Obj {
    fn from(slice: EndpointSlice) -> Obj {
        Obj(Object::EndpointSlice(Arc::new(slice)))
    }
}

impl From<Object> for Obj {
    fn from(object: Object) -> Obj {
        Obj(object)
    }
}

struct Obj(Object);

/// A model and the compiler that follows it.
struct World {
    model: Model,
    compiler: Compiler,
    snapshot: Snapshot,
    generation: u64,
    endpoints_left: bool,
    /// The problems of the last update that were new.
    news: Vec<String>,
}

impl World {
    fn new() -> World {
        let (certificate, key) = pem(&["self-signed.invalid"]);
        let (model, _) = Model::of([secret("self", &certificate, &key)]);
        let own = model.secret(&ObjectName::new("default", "self")).unwrap();
        let own = Arc::new(Certificate::of(own, &provider()).unwrap());
        let compiler =
            Compiler::new("switchyard", provider(), own.clone(), PlanDefaults::default());
        let snapshot = Snapshot::new(own);
        let (model, news) = (Model::default(), Vec::new());
        World { model, compiler, snapshot, generation: 0, endpoints_left: false, news }
    }

    fn of(objects: Vec<Obj>) -> World {
        let mut world = World::new();
        world.apply(objects);
        world
    }

    fn apply(&mut self, objects: Vec<Obj>) {
        let mut changes = Changes::default();
        for Obj(object) in objects {
            self.model.apply(object, &mut changes);
        }
        self.update(&changes);
    }

    fn delete(&mut self, kind: model::Kind, name: &str) {
        let mut changes = Changes::default();
        let namespace = if kind.is_namespaced() { "default" } else { "" };
        let key = model::ObjectKey { kind, name: ObjectName::new(namespace, name) };
        self.model.delete(&key, &mut changes);
        self.update(&changes);
    }

    fn update(&mut self, changes: &Changes) {
        self.generation += 1;
        let compiled = self.compiler.update(&self.model, changes, self.generation);
        self.snapshot = compiled.snapshot;
        self.endpoints_left = compiled.removal.apply();
        self.news = compiled.news.iter().map(line).collect();
        self.agrees_with_a_fresh_start();
    }

    /// What was made step by step is what a start from the whole model makes.
    fn agrees_with_a_fresh_start(&self) {
        let own = self.snapshot.self_signed.clone();
        let mut fresh = Compiler::new("switchyard", provider(), own, PlanDefaults::default());
        fresh.remember_certificates(&self.compiler);
        let mut changes = Changes::default();
        let names = |set: &mut std::collections::BTreeSet<_>, all: Vec<ObjectName>| {
            set.extend(all);
        };
        names(&mut changes.ingresses, self.model.ingresses().map(|i| i.name.clone()).collect());
        names(
            &mut changes.services,
            self.model.services().map(|s| s.service.name.clone()).collect(),
        );
        let compiled = fresh.update(&self.model, &changes, self.generation);
        let fresh_snapshot = compiled.snapshot;
        compiled.removal.apply();
        assert_eq!(listing(&self.snapshot), listing(&fresh_snapshot));
        assert_eq!(self.compiler.problems(), fresh.problems());
        assert_eq!(self.compiler.served(), fresh.served());
    }

    /// The Service behind a URL, as `service`, `404`, or `service: reason` when none serves it.
    fn route(&self, host: &str, path: &str) -> String {
        let Some(route) = self.snapshot.route(host, &normalise(path).unwrap()) else {
            return "404".to_owned();
        };
        route.backend.key.service.name.to_string()
    }

    fn backend(&self, host: &str) -> Arc<Backend> {
        self.snapshot.route(host, "/").unwrap().backend.clone()
    }

    fn addresses(&self, host: &str) -> Vec<String> {
        let backend = self.backend(host);
        backend.endpoints().addresses().iter().map(ToString::to_string).collect()
    }

    fn problems(&self) -> Vec<String> {
        self.compiler.problems().iter().map(line).collect()
    }

    fn certificate(&self, host: &str) -> String {
        self.snapshot.certificate(Some(host)).names.join(",")
    }
}

/// A problem as `object: message`.
fn line(problem: &Problem) -> String {
    format!("{}: {}", problem.object.name, problem.message)
}

fn listing(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (host, routes) in snapshot.routes() {
        for route in routes.routes() {
            let endpoints = route.backend.endpoints();
            let addresses = endpoints.addresses();
            let unserved = endpoints.unserved();
            let line = (&route.ingress, &route.path, &route.backend.key, addresses, unserved);
            lines.push(format!("{host} {line:?} {:?}", route.plan));
        }
    }
    for (host, certificate) in snapshot.certificates() {
        lines.push(format!("{host} {:?} {:?}", certificate.secret, certificate.names));
    }
    lines.extend(snapshot.services().map(|(name, _)| name.to_string()));
    lines
}

fn ready(service: &str, ips: &[&str]) -> Vec<Obj> {
    let endpoints = ips.iter().map(|ip| endpoint(ip)).collect();
    vec![super::tests::service(service).into(), slice(service, service, endpoints).into()]
}

#[test]
fn rules_lead_to_backends() {
    use PathType::{Exact, Prefix};
    let mut catch_all = ingress("all", Vec::new());
    catch_all.default_backend = Some(backend("fallback"));
    let mut own_default = ingress("own", vec![rule("own.com", &[(Exact, "/x", "own")])]);
    own_default.default_backend = Some(backend("own-default"));
    own_default.created_unix = Some(2);
    catch_all.created_unix = Some(1);
    let mut whole = ingress("whole", vec![rule("whole.com", &[])]);
    whole.default_backend = Some(backend("whole"));
    let world = World::of(vec![
        one_path("wild", "*.foo.com", "wildcard").into(),
        ingress("exact", vec![rule("foo.bar.com", &[(Prefix, "/aaa", "exact")])]).into(),
        ingress("any", vec![rule("", &[(Prefix, "/healthz", "any")])]).into(),
        catch_all.into(),
        own_default.into(),
        whole.into(),
    ]);
    let table = [
        ("bar.foo.com", "/x", "wildcard"),
        ("baz.bar.foo.com", "/", "fallback"),
        ("foo.com", "/", "fallback"),
        ("foo.bar.com", "/aaa/b", "exact"),
        ("foo.bar.com", "/b", "fallback"),
        ("foo.bar.com", "/healthz", "any"),
        ("bar.foo.com", "/healthz", "wildcard"),
        ("other.com", "/healthz/", "any"),
        ("own.com", "/x", "own"),
        ("own.com", "/y", "own-default"),
        ("whole.com", "/y", "whole"),
        ("whole.com", "/healthz", "whole"),
    ];
    for (host, path, expected) in table {
        assert_eq!(world.route(host, path), expected, "{host}{path}");
    }
    let conflicts = world.problems().into_iter().filter(|p| p.contains("default backend")).count();
    assert_eq!(conflicts, 2, "{:?}", world.problems());
}

#[test]
fn ingresses_of_one_host_merge_and_the_oldest_wins() {
    use PathType::{Exact, Prefix};
    let mut old = ingress("z-old", vec![rule("a.com", &[(Prefix, "/x", "old")])]);
    old.created_unix = Some(100);
    let mut young = ingress(
        "a-young",
        vec![rule(
            "a.com",
            &[(Prefix, "/x", "young"), (Exact, "/x", "exact"), (Prefix, "/y", "y")],
        )],
    );
    young.created_unix = Some(200);
    let mut world = World::of(vec![old.into(), young.clone().into()]);
    let check = |world: &World, expected: [&str; 3]| {
        for (path, expected) in ["/x/", "/x", "/y"].into_iter().zip(expected) {
            assert_eq!(world.route("a.com", path), expected, "{path}");
        }
    };
    check(&world, ["old", "exact", "y"]);
    let expected = "a-young: host a.com, Prefix path /x: Ingress default/z-old has it already";
    assert!(world.problems().contains(&expected.to_owned()), "{:?}", world.problems());
    young.created_unix = Some(50);
    world.apply(vec![young.into()]);
    check(&world, ["young", "exact", "y"]);
    world.delete(model::Kind::Ingress, "a-young");
    check(&world, ["old", "old", "404"]);
    assert!(!world.problems().iter().any(|p| p.contains("already")));
    world.delete(model::Kind::Ingress, "z-old");
    assert_eq!(world.route("a.com", "/x"), "404");
    assert!(listing(&world.snapshot).is_empty(), "{:?}", listing(&world.snapshot));
}

#[test]
fn classes_decide_who_serves() {
    let class = |name: &str, controller: &str, is_default| {
        Obj(Object::IngressClass(Arc::new(IngressClass {
            name: ObjectName::new("", name),
            controller: controller.into(),
            is_default,
        })))
    };
    let with_class = |class: Option<&str>| {
        let mut ingress = one_path("i", "a.com", "web");
        ingress.class = class.map(Into::into);
        Obj::from(ingress)
    };
    let ours = "switchyard.dev/ingress";
    type Row<'a> = (Option<&'a str>, Vec<Obj>, &'a str);
    let table: Vec<Row<'_>> = vec![
        (Some("switchyard"), vec![], "web"),
        (Some("nginx"), vec![], "404"),
        (Some("yard"), vec![class("yard", ours, false)], "web"),
        (Some("nginx"), vec![class("nginx", "k8s.io/ingress-nginx", true)], "404"),
        (None, vec![], "web"),
        (None, vec![class("nginx", "k8s.io/ingress-nginx", false)], "web"),
        (None, vec![class("nginx", "k8s.io/ingress-nginx", true)], "404"),
        (None, vec![class("yard", ours, true)], "web"),
    ];
    for (name, mut objects, expected) in table {
        objects.push(with_class(name));
        let world = World::of(objects);
        assert_eq!(world.route("a.com", "/"), expected, "{name:?}");
    }
    let mut world = World::of(vec![with_class(Some("yard"))]);
    assert_eq!(world.route("a.com", "/"), "404");
    world.apply(vec![class("yard", ours, false)]);
    assert_eq!(world.route("a.com", "/"), "web");
    world.delete(model::Kind::IngressClass, "yard");
    assert_eq!(world.route("a.com", "/"), "404");
}

#[test]
fn backends_follow_services_and_slices() {
    let mut world = World::of(vec![one_path("i", "a.com", "web").into()]);
    let unserved = |world: &World| world.backend("a.com").endpoints().unserved();
    assert_eq!(unserved(&world), Some(backend::Unserved::NoService));
    assert_eq!(world.problems(), ["i: backend default/web:80: the Service does not exist"]);

    world.apply(vec![service("web").into()]);
    assert_eq!(unserved(&world), Some(backend::Unserved::NoEndpoints));
    let before = world.snapshot.route("a.com", "/").unwrap().clone();

    world.apply(vec![
        slice("web-1", "web", vec![endpoint("10.0.0.2"), endpoint("10.0.0.1")]).into(),
    ]);
    assert_eq!(world.addresses("a.com"), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert!(world.problems().is_empty());
    let after = world.snapshot.route("a.com", "/").unwrap();
    assert!(Arc::ptr_eq(&before, after), "endpoints rebuild no route");

    let mut terminating = endpoint("10.0.0.1");
    terminating.terminating = true;
    let mut not_ready = endpoint("10.0.0.3");
    not_ready.ready = false;
    let kept = world.backend("a.com").endpoints().list()[1].clone();
    let left = world.backend("a.com").endpoints().list()[0].clone();
    world.apply(vec![
        slice("web-1", "web", vec![terminating, endpoint("10.0.0.2"), not_ready]).into(),
    ]);
    assert_eq!(world.addresses("a.com"), ["10.0.0.2:8080"]);
    assert!(Arc::ptr_eq(&kept, &world.backend("a.com").endpoints().list()[0]));
    assert!(world.endpoints_left && left.is_gone() && !kept.is_gone());

    let mut published = service("web");
    published.publish_not_ready_addresses = true;
    world.apply(vec![published.into()]);
    assert_eq!(world.addresses("a.com").len(), 3);
    assert!(!world.endpoints_left);

    let mut external = service("web");
    external.service_type = ServiceType::ExternalName("elsewhere.example".into());
    world.apply(vec![external.into()]);
    assert_eq!(unserved(&world), Some(backend::Unserved::ExternalName));
    assert!(kept.is_gone() && world.endpoints_left);

    world.delete(model::Kind::Service, "web");
    assert_eq!(unserved(&world), Some(backend::Unserved::NoService));
}

#[test]
fn ports_are_found_by_number_and_by_name() {
    let mut by_name = one_path("name", "name.com", "web");
    by_name.rules[0].paths[0].backend.port = BackendPort::Name("admin".into());
    let mut same_port = one_path("same", "same.com", "web");
    same_port.rules[0].paths[0].backend.port = BackendPort::Name("http".into());
    let mut missing = one_path("missing", "missing.com", "web");
    missing.rules[0].paths[0].backend.port = BackendPort::Name("nope".into());
    let mut udp = one_path("udp", "udp.com", "web");
    udp.rules[0].paths[0].backend.port = BackendPort::Number(number(53));
    let mut objects = ready("web", &["10.0.0.1"]);
    objects.extend([by_name, same_port, missing, udp].map(Obj::from));
    objects.push(one_path("number", "number.com", "web").into());
    let world = World::of(objects);
    assert_eq!(world.addresses("number.com"), ["10.0.0.1:8080"]);
    assert_eq!(world.addresses("same.com"), ["10.0.0.1:8080"]);
    assert_eq!(world.addresses("name.com"), ["10.0.0.1:8081"]);
    let unserved = |host| world.backend(host).endpoints().unserved();
    assert_eq!(unserved("missing.com"), Some(backend::Unserved::NoPort));
    assert_eq!(unserved("udp.com"), Some(backend::Unserved::NotTcp));
    let problems = world.compiler.problems();
    let helps: Vec<_> = problems.iter().filter_map(|problem| problem.help.as_deref()).collect();
    assert_eq!(helps, ["use a TCP port of the Service: 80 (http), 81 (admin)"; 2]);
    let (first, second) = (world.backend("number.com"), world.backend("same.com"));
    assert!(Arc::ptr_eq(&first.endpoints(), &second.endpoints()), "one rotation for a port");
}

#[test]
fn the_rotation_is_strict_over_changes() {
    let mut objects = ready("web", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    objects.push(one_path("i", "a.com", "web").into());
    let mut world = World::of(objects);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let backend = world.backend("a.com");
        let endpoints = backend.endpoints();
        let endpoint = endpoints.pick(|_| true, &Draw::FIXED).unwrap();
        *seen.entry(endpoint.endpoint.address).or_insert(0) += 1;
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [100, 100, 100]);
    world.apply(vec![slice("web", "web", Vec::new()).into()]);
    assert!(world.backend("a.com").endpoints().pick(|_| true, &Draw::FIXED).is_none());
}

/// Clients are routed by the snapshot before until the next is published.
#[test]
fn a_backend_is_emptied_only_after_its_routes_have_moved() {
    let mut objects = ready("old", &["10.0.0.1"]);
    objects.extend(ready("new", &[]));
    objects.push(one_path("i", "a.com", "old").into());
    objects.push(one_path("stays", "b.com", "old").into());
    let mut world = World::of(objects);
    let old = world.backend("a.com");
    let held = old.endpoints();
    let moved: Vec<Obj> = vec![
        slice("old", "old", Vec::new()).into(),
        slice("new", "new", vec![endpoint("10.0.0.1")]).into(),
        one_path("i", "a.com", "new").into(),
    ];
    let mut changes = Changes::default();
    for Obj(object) in moved {
        world.model.apply(object, &mut changes);
    }
    let compiled = world.compiler.update(&world.model, &changes, world.generation + 1);
    let serves = |endpoints: &backend::Endpoints| endpoints.pick(|_| true, &Draw::FIXED).is_some();
    assert!(serves(&held) && serves(&old.endpoints()), "before the next snapshot is published");
    let new = compiled.snapshot.route("a.com", "/").unwrap().backend.clone();
    assert!(serves(&new.endpoints()), "the next snapshot can be published");
    assert!(compiled.removal.apply());
    assert!(!serves(&old.endpoints()) && serves(&new.endpoints()));
}

#[test]
fn both_families_count_an_endpoint_once() {
    let mut v6 = slice("web-6", "web", vec![endpoint("fd00::1"), endpoint("fd00::2")]);
    v6.address_type = AddressType::Ipv6;
    let v4 = slice("web-4", "web", vec![endpoint("10.0.0.1")]);
    let mut first_v6 = service("web");
    first_v6.cluster_ips = vec!["fd00:1::1".parse().unwrap(), "10.1.0.1".parse().unwrap()];
    let mut world = World::of(vec![
        one_path("i", "a.com", "web").into(),
        service("web").into(),
        v4.into(),
        v6.into(),
    ]);
    assert_eq!(world.addresses("a.com"), ["10.0.0.1:8080"]);
    world.apply(vec![first_v6.into()]);
    assert_eq!(world.addresses("a.com"), ["[fd00::1]:8080", "[fd00::2]:8080"]);
    world.delete(model::Kind::EndpointSlice, "web-6");
    assert_eq!(world.addresses("a.com"), ["10.0.0.1:8080"]);
}

fn with_tls(mut ingress: Ingress, hosts: &[&str], secret: &str) -> Ingress {
    let hosts = hosts.iter().map(|host| (*host).into()).collect();
    ingress.tls.push(IngressTls { hosts, secret_name: Some(secret.into()) });
    ingress
}

#[test]
fn certificates_are_found_by_host_and_swapped() {
    let (a, a_key) = pem(&["a.com"]);
    let (b, b_key) = pem(&["a.com", "b.com"]);
    let (wild, wild_key) = pem(&["*.w.com"]);
    let mut world = World::of(vec![
        secret("a", &a, &a_key).into(),
        secret("w", &wild, &wild_key).into(),
        with_tls(one_path("a", "a.com", "web"), &["a.com"], "a").into(),
        with_tls(one_path("w", "*.w.com", "web"), &["*.w.com"], "w").into(),
        with_tls(one_path("broken", "broken.com", "web"), &[], "nope").into(),
    ]);
    let table = [
        ("a.com", "a.com"),
        ("x.w.com", "*.w.com"),
        ("y.x.w.com", "self-signed.invalid"),
        ("w.com", "self-signed.invalid"),
        ("broken.com", "self-signed.invalid"),
        ("other.com", "self-signed.invalid"),
    ];
    for (host, names) in table {
        assert_eq!(world.certificate(host), names, "{host}");
    }
    let tls = |world: &World| -> Vec<_> {
        world.problems().into_iter().filter(|p| p.contains("TLS")).collect()
    };
    assert_eq!(tls(&world), ["broken: TLS for broken.com: Secret default/nope does not exist"]);

    world.apply(vec![secret("a", &b, &b_key).into(), secret("nope", &b, &b_key).into()]);
    assert_eq!(world.certificate("a.com"), "a.com,b.com");
    assert_eq!(
        tls(&world),
        ["broken: TLS for broken.com: the certificate of Secret default/nope is for a.com, b.com"]
    );

    world.apply(vec![secret("a", &b, &wild_key).into()]);
    assert_eq!(world.certificate("a.com"), "a.com,b.com", "the last good one");
    assert!(
        tls(&world)[0].starts_with("a: TLS for a.com: Secret default/a: "),
        "{:?}",
        tls(&world)
    );

    world.apply(vec![secret("a", "not pem", &wild_key).into()]);
    assert_eq!(
        tls(&world)[0],
        "a: TLS for a.com: Secret default/a: tls.crt contains no PEM certificate"
    );
    assert_eq!(world.certificate("a.com"), "a.com,b.com", "the last good one");
    // An Ingress that changes at the same time keeps it too.
    world.apply(vec![with_tls(one_path("a", "a.com", "other"), &["a.com"], "a").into()]);
    assert_eq!(world.certificate("a.com"), "a.com,b.com", "the last good one");
    world.apply(vec![secret("a", &a, &a_key).into()]);
    assert_eq!(world.certificate("a.com"), "a.com");
    world.delete(model::Kind::Secret, "a");
    assert_eq!(world.certificate("a.com"), "self-signed.invalid");
    world.apply(vec![secret("a", &a, &wild_key).into()]);
    assert_eq!(world.certificate("a.com"), "self-signed.invalid", "a new Secret has had none");
    world.delete(model::Kind::Ingress, "w");
    assert_eq!(world.certificate("x.w.com"), "self-signed.invalid");
}

#[test]
fn of_two_certificates_for_a_host_the_older_ingress_wins() {
    let (a, a_key) = pem(&["a.com", "first.com"]);
    let (b, b_key) = pem(&["a.com", "second.com"]);
    let mut old = with_tls(one_path("z", "a.com", "web"), &["a.com"], "a");
    old.created_unix = Some(1);
    let mut young = with_tls(one_path("y", "a.com", "web"), &["a.com"], "b");
    young.created_unix = Some(2);
    let mut world = World::of(vec![
        secret("a", &a, &a_key).into(),
        secret("b", &b, &b_key).into(),
        young.into(),
        old.into(),
    ]);
    assert_eq!(world.certificate("a.com"), "a.com,first.com");
    let expected = "y: TLS for a.com: Ingress default/z names another Secret";
    assert!(world.problems().contains(&expected.to_owned()), "{:?}", world.problems());
    world.delete(model::Kind::Secret, "a");
    assert_eq!(world.certificate("a.com"), "a.com,second.com", "a usable one is better than none");
}

fn with_annotation(mut ingress: Ingress, name: &str, value: &str) -> Ingress {
    let key = format!("nginx.ingress.kubernetes.io/{name}");
    ingress.annotations.insert(key.into(), value.into());
    ingress
}

/// Nothing said that an older Ingress decides how the requests of a Service are spread.
#[test]
fn an_ingress_whose_balancing_has_no_effect_is_told_so() {
    let with = |name: &str, created: i64, method: &str| {
        let mut ingress = one_path(name, &format!("{name}.com"), "web");
        ingress.created_unix = Some(created);
        with_annotation(ingress, "load-balance", method)
    };
    let (old, young) = (with("z", 1, "ewma"), with("y", 2, "least-requests"));
    let same = with("x", 3, "ewma");
    let plain = one_path("w", "w.com", "web");
    let mut world =
        World::of(vec![service("web").into(), old.into(), young.into(), same.into(), plain.into()]);
    let overruled = |world: &World| -> Vec<_> {
        world.problems().into_iter().filter(|problem| problem.contains("balancing")).collect()
    };
    let expected = "y: backend default/web:80: the annotations for balancing and health checks of \
                    Ingress default/z hold, not those of this one";
    assert_eq!(overruled(&world), [expected]);
    world.delete(model::Kind::Ingress, "z");
    let expected = "x: backend default/web:80: the annotations for balancing and health checks of \
                    Ingress default/y hold, not those of this one";
    assert_eq!(overruled(&world), [expected]);
    world.delete(model::Kind::Ingress, "y");
    assert_eq!(overruled(&world), [""; 0]);
}

#[test]
fn a_canary_never_takes_the_route_of_its_main_ingress() {
    let mut main = one_path("main", "a.com", "web");
    main.created_unix = Some(2);
    let mut canary = with_annotation(one_path("canary", "a.com", "new"), "canary", "true");
    canary = with_annotation(canary, "canary-weight", "0");
    // The older one would win if it were an ordinary Ingress.
    canary.created_unix = Some(1);
    let alone = with_annotation(one_path("alone", "alone.com", "new"), "canary", "true");
    let mut world = World::of(vec![main.into(), canary.clone().into(), alone.into()]);
    assert_eq!(world.route("a.com", "/"), "web");
    assert_eq!(world.route("alone.com", "/"), "404");
    let problems = |world: &World, of: &str| -> Vec<_> {
        world.problems().into_iter().filter(|p| p.starts_with(of)).collect()
    };
    // The Services of this test do not exist.
    assert_eq!(problems(&world, "canary: ").len(), 1);
    let unused = problems(&world, "alone: ");
    assert!(
        unused.iter().any(|p| p.contains("no main Ingress of its namespace has it")),
        "{unused:?}"
    );
    let route = world.snapshot.route("a.com", "/").unwrap();
    assert_eq!(&*route.canary.as_ref().unwrap().route.backend.key.service.name, "new");
    canary.annotations.clear();
    world.apply(vec![canary.into()]);
    assert_eq!(world.route("a.com", "/"), "new");
    world.delete(model::Kind::Ingress, "canary");
    assert_eq!(world.route("a.com", "/"), "web");
}

#[test]
fn routes_that_are_to_be_restricted_or_diverted_are_refused() {
    for (name, value) in [("permanent-redirect", "ftp://x.example"), ("ssl-passthrough", "true")] {
        let world =
            World::of(vec![with_annotation(one_path("i", "a.com", "web"), name, value).into()]);
        let route = world.snapshot.route("a.com", "/").unwrap();
        assert_eq!(route.plan.refused.map(|by| by.name), Some(name));
        assert!(world.problems()[0].ends_with(": its routes answer 503"));
    }
}

#[test]
fn an_app_protocol_that_is_not_spoken_is_reported_on_its_service() {
    let mut objects = ready("web", &["10.0.0.1"]);
    objects.push(one_path("i", "a.com", "web").into());
    let mut world = World::of(objects);
    assert!(world.problems().is_empty());
    let with = |protocol: &str| {
        let mut service = service("web");
        for port in &mut service.ports {
            port.app_protocol = Some(protocol.into());
        }
        Obj::from(service)
    };
    for protocol in ["fcgi", "nonsense"] {
        world.apply(vec![with(protocol)]);
        let expected = format!("web: appProtocol {protocol:?} is not supported by the ingress");
        let found = world.problems();
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
        assert_eq!(world.news, found, "it is new");
        let fields: Vec<_> =
            world.compiler.problems().iter().map(|p| p.field.to_string()).collect();
        assert_eq!(fields, ["spec.ports[0].appProtocol"], "only the port that the Ingress uses");
    }
    for protocol in ["http", "HTTP", "kubernetes.io/ws", "tcp", "kubernetes.io/h2c", "grpc"] {
        world.apply(vec![with(protocol)]);
        assert!(world.problems().is_empty(), "{protocol}: {:?}", world.problems());
    }
    world.apply(vec![with("fcgi")]);
    world.delete(model::Kind::Ingress, "i");
    assert!(world.problems().is_empty(), "no Ingress leads there");
}

#[test]
fn a_path_that_looks_like_a_pattern_is_reported() {
    use PathType::Prefix;
    let table = [
        ("/api(/|$)(.*)", "a regular expression"),
        ("/[0-9]+", "a regular expression"),
        ("/a.*", "a regular expression"),
        ("/api/*", "a wildcard"),
        ("/*/b", "a wildcard"),
        ("/api", ""),
        ("/a.b+c", ""),
    ];
    for (path, what) in table {
        let mut objects = ready("web", &["10.0.0.1"]);
        objects.push(ingress("i", vec![rule("a.com", &[(Prefix, path, "web")])]).into());
        let world = World::of(objects);
        let expected = format!("i: path {path} looks like {what}, but it is matched literally");
        let expected = if what.is_empty() { vec![] } else { vec![expected] };
        assert_eq!(world.problems(), expected);
    }
}

#[test]
fn problems_name_their_fields_and_are_told_once() {
    let mut first = one_path("a", "a.com", "web");
    first.created_unix = Some(1);
    let second = ingress(
        "b",
        vec![
            rule("b.com", &[(PathType::Prefix, "/", "web")]),
            rule("a.com", &[(PathType::Exact, "/x", "web"), (PathType::Prefix, "/", "none")]),
        ],
    );
    let second = with_tls(with_annotation(second, "auth-snippet", "x"), &["b.com"], "s");
    let mut objects = ready("web", &["10.0.0.1"]);
    objects.extend([Obj::from(first), second.clone().into()]);
    let mut world = World::of(objects);
    let fields: Vec<_> = world.compiler.problems().iter().map(|p| p.field.to_string()).collect();
    assert_eq!(
        fields,
        [
            "metadata.annotations[nginx.ingress.kubernetes.io/auth-snippet]",
            "spec.tls[0].secretName",
            "spec.rules[1].http.paths[1].backend.service.name",
            "spec.rules[1].http.paths[1].path",
        ]
    );
    assert_eq!(world.news.len(), 3, "that of the backend is not logged: {:?}", world.news);
    world.apply(vec![second.into()]);
    assert!(world.news.is_empty(), "{:?}", world.news);
    let missing: Vec<_> = world.compiler.problems().into_iter().filter_map(|p| p.missing).collect();
    let named = |kind, name| (kind, ObjectName::new("default", name));
    assert_eq!(missing, [named(model::Kind::Secret, "s"), named(model::Kind::Service, "none")]);
}

#[test]
fn a_version_1_certificate_is_served_by_its_common_name() {
    let mut world = World::of(vec![
        secret("v1", V1_CERTIFICATE, V1_KEY).into(),
        with_tls(one_path("t", "t.test", "web"), &["t.test"], "v1").into(),
    ]);
    assert_eq!(world.certificate("t.test"), "t.test");
    let about_tls: Vec<_> = world.problems().into_iter().filter(|p| p.contains("TLS")).collect();
    assert_eq!(
        about_tls,
        ["t: TLS for t.test: the certificate of Secret default/v1 has no subject alternative \
          name, so browsers reject it"]
    );
    let (_, other) = pem(&["t.test"]);
    world.apply(vec![secret("v1", V1_CERTIFICATE, &other).into()]);
    assert_eq!(world.certificate("t.test"), "t.test", "the last good one");
    assert!(world.problems().iter().any(|p| p.contains("does not belong")));
}

#[test]
fn a_request_is_misdirected_only_where_the_certificate_of_its_connection_is_for_others() {
    let (two, two_key) = pem(&["a.com", "b.com", "*.w.com", "10.0.0.1", "::1"]);
    let (other, other_key) = pem(&["c.com"]);
    let both = |name: &str, host: &str| -> Vec<Obj> {
        let ingress = with_tls(one_path(name, host, "web"), &[host], name);
        vec![secret(name, &two, &two_key).into(), ingress.into()]
    };
    let mut objects = both("a", "a.com");
    objects.extend(both("b", "b.com"));
    objects.push(secret("c", &other, &other_key).into());
    objects.push(with_tls(one_path("c", "c.com", "web"), &["c.com"], "c").into());
    let world = World::of(objects);
    let misdirected = [
        ("a.com", "a.com", false),
        ("a.com", "b.com", false),
        ("b.com", "a.com", false),
        ("a.com", "x.w.com", false),
        ("a.com", "w.com", true),
        ("a.com", "10.0.0.1", false),
        ("a.com", "[::1]", false),
        ("a.com", "[0:0::1]", false),
        ("a.com", "[::2]", true),
        ("a.com", "c.com", true),
        ("a.com", "elsewhere.com", true),
        ("c.com", "a.com", true),
        // Neither has a certificate of its own: the client saw the same one as it would there.
        ("no.com", "elsewhere.com", false),
    ];
    for (server_name, host, expected) in misdirected {
        let found = world.snapshot.is_misdirected(server_name, host);
        assert_eq!(found, expected, "{server_name} then {host}");
    }
}

#[test]
fn redirects_are_for_hosts_with_tls() {
    let annotated = |name: &str, host: &str, annotation: &str| {
        let mut ingress = one_path(name, host, "web");
        ingress.annotations.insert(annotation.into(), "true".into());
        ingress
    };
    let ssl = "nginx.ingress.kubernetes.io/ssl-redirect";
    let force = "switchyard.dev/force-ssl-redirect";
    let mut two_hosts = with_tls(annotated("i", "tls.com", ssl), &["tls.com"], "s");
    two_hosts.rules.push(rule("plain.com", &[(PathType::Prefix, "/", "web")]));
    let world = World::of(vec![
        two_hosts.into(),
        with_tls(annotated("w", "x.wild.com", ssl), &["*.wild.com"], "s").into(),
        annotated("f", "force.com", force).into(),
        with_tls(one_path("n", "none.com", "web"), &["none.com"], "s").into(),
    ]);
    let table = [
        ("tls.com", true),
        ("plain.com", false),
        ("x.wild.com", true),
        ("force.com", true),
        ("none.com", false),
    ];
    for (host, expected) in table {
        assert_eq!(
            world.snapshot.route(host, "/").unwrap().plan.https_redirect.is_some(),
            expected,
            "{host}"
        );
    }
}

#[test]
fn answers_are_counted_while_a_route_refers_to_the_service() {
    let mut world = World::of(vec![one_path("i", "a.com", "web").into()]);
    world.backend("a.com").answers.count(204);
    let counted = |world: &World| -> Vec<_> {
        let services = world.snapshot.services();
        services.map(|(name, answers)| (name.to_string(), answers.counts().nth(1))).collect()
    };
    world.apply(vec![one_path("j", "b.com", "web").into()]);
    assert_eq!(counted(&world), [("default/web".to_owned(), Some(("2xx", 1)))]);
    world.delete(model::Kind::Ingress, "i");
    world.delete(model::Kind::Ingress, "j");
    assert!(counted(&world).is_empty());
}

#[test]
fn one_change_among_many_hosts_touches_only_its_own() {
    let many = (0..500).map(|n| one_path(&format!("i{n}"), &format!("h{n}.com"), "web").into());
    let mut world = World::of(many.collect());
    let before = world.snapshot.clone();
    world.apply(vec![one_path("i7", "h7.com", "other").into()]);
    let moved = (0..500).filter(|n| {
        let host = format!("h{n}.com");
        let of = |snapshot: &Snapshot| snapshot.route(&host, "/").unwrap().clone();
        !Arc::ptr_eq(&of(&before), &of(&world.snapshot))
    });
    assert_eq!(moved.collect::<Vec<_>>(), [7]);
}
