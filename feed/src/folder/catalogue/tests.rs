//! What a folder serves after each batch of files, and what it reports.

use std::path::Path;

use super::*;

/// A catalogue with what the store would hold.
struct Folder {
    catalogue: Catalogue,
    store: BTreeMap<String, String>,
}

impl Default for Folder {
    fn default() -> Folder {
        Folder { catalogue: Catalogue::new(Kinds::all()), store: BTreeMap::new() }
    }
}

impl Folder {
    /// Puts files and settles; returns the events, in words.
    fn batch(&mut self, files: &[(&str, &str)], gone: &[&str]) -> Vec<String> {
        for (path, text) in files {
            let format = if path.ends_with(".json") { Format::Json } else { Format::Yaml };
            self.catalogue.put(&FilePath::from(Path::new(path)), text, format);
        }
        for path in gone {
            self.catalogue.remove(&FilePath::from(Path::new(path)));
        }
        let mut events = Vec::new();
        for event in self.catalogue.settle() {
            match event {
                Event::Apply(record) => {
                    let name = record.key().name.name.to_string();
                    let what = describe(&record);
                    events.push(format!("{name}={what}"));
                    self.store.insert(name, what);
                }
                Event::Delete(key) => {
                    events.push(format!("-{}", key.name.name));
                    self.store.remove(&*key.name.name);
                }
                other => panic!("{other:?}"),
            }
        }
        events.sort();
        events
    }

    fn put(&mut self, path: &str, text: &str) -> Vec<String> {
        self.batch(&[(path, text)], &[])
    }

    fn held(&self) -> String {
        let objects: Vec<_> = self.store.iter().map(|(k, v)| format!("{k}={v}")).collect();
        objects.join(" ")
    }

    /// What is wrong, as `file:line:column: message`, without warnings.
    fn errors(&mut self) -> Vec<String> {
        let reports = self.catalogue.reports();
        let errors = reports.iter().filter(|report| report.is_error());
        errors
            .map(|report| {
                let help = report.problem.help.as_deref().unwrap_or_default();
                format!("{report} ({help})")
            })
            .collect()
    }
}

fn describe(record: &Record) -> String {
    let claims: Vec<_> = claims::of(record)
        .into_iter()
        .map(|claim| match claim {
            Claim::ClusterIp(ip) => ip.to_string(),
            Claim::NodePort(port, _) => port.to_string(),
        })
        .collect();
    claims.join(",")
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: \
        {ip}\n  \
         ports: [{{port: 80}}]\n"
    )
}

fn node_port(name: &str, ip: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: \
        NodePort\n  \
         clusterIP: {ip}\n  ports: [{{port: 80, nodePort: {port}}}]\n"
    )
}

const BROKEN: &str = "---\na: [b\n";

#[test]
fn objects_come_change_and_go_with_their_files() {
    let mut folder = Folder::default();
    assert_eq!(folder.put("f.yaml", &service("a", "10.0.0.1")), ["a=10.0.0.1"]);
    assert!(folder.put("f.yaml", &service("a", "10.0.0.1")).is_empty(), "nothing is news");
    assert_eq!(folder.put("f.yaml", &service("a", "10.0.0.2")), ["a=10.0.0.2"]);
    let two = service("a", "10.0.0.2") + &service("b", "10.0.0.3");
    assert_eq!(folder.put("f.yaml", &two), ["b=10.0.0.3"]);
    assert_eq!(folder.put("f.yaml", &service("b", "10.0.0.3")), ["-a"]);
    assert_eq!(folder.batch(&[], &["f.yaml"]), ["-b"]);
    assert_eq!(folder.catalogue.served().values().sum::<usize>(), 0);
}

#[test]
fn a_bad_object_keeps_its_last_good_state_and_leaves_the_rest_alone() {
    let mut folder = Folder::default();
    folder.put("f.yaml", &(service("a", "10.0.0.1") + &service("b", "10.0.0.2")));
    let bad = service("a", "10.0.0.999") + &service("b", "10.0.0.3");
    assert_eq!(folder.put("f.yaml", &bad), ["b=10.0.0.3"]);
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.3");
    assert!(folder.errors()[0].starts_with("f.yaml:6:14: error: spec.clusterIP: Invalid value"));
    // It is still bad in a file that changed elsewhere, and still kept.
    let moved = service("c", "10.0.0.4") + &bad;
    assert_eq!(folder.put("f.yaml", &moved), ["c=10.0.0.4"]);
    assert!(folder.errors()[0].starts_with("f.yaml:13:14: "), "{:?}", folder.errors());
    assert_eq!(folder.put("f.yaml", &service("a", "10.0.0.5")), ["-b", "-c", "a=10.0.0.5"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn an_object_that_was_never_good_is_not_served() {
    let mut folder = Folder::default();
    assert!(folder.put("f.yaml", &service("a", "10.0.0.999")).is_empty());
    assert_eq!(folder.errors().len(), 1);
    assert_eq!(folder.put("g.yaml", &service("a", "10.0.0.1")), ["a=10.0.0.1"]);
}

#[test]
fn what_a_broken_document_may_have_held_stays() {
    let mut folder = Folder::default();
    folder.put("f.yaml", &(service("a", "10.0.0.1") + &service("b", "10.0.0.2")));
    assert_eq!(
        folder.put("f.yaml", &(BROKEN.to_owned() + &service("c", "10.0.0.3"))),
        ["c=10.0.0.3"]
    );
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.2 c=10.0.0.3");
    assert!(folder.errors()[0].starts_with("f.yaml:2:6: error: not valid YAML"));
    // Once nothing is broken, what is not there is gone.
    assert_eq!(folder.put("f.yaml", &service("a", "10.0.0.1")), ["-b", "-c"]);
}

#[test]
fn of_two_files_with_the_same_object_the_incumbent_stays() {
    let mut folder = Folder::default();
    // Cold start: the first path.
    let (one, two) = (service("a", "10.0.0.1"), service("a", "10.0.0.2"));
    assert_eq!(folder.batch(&[("n.yaml", &two), ("m.yaml", &one)], &[]), ["a=10.0.0.1"]);
    assert_eq!(
        folder.errors(),
        ["n.yaml:2:1: error: Service default/a is defined twice; this definition is not served \
          (default/a (m.yaml:2) is served instead: delete or rename one of them)"]
    );
    // A newcomer with a smaller path changes nothing; neither does an edit of the other.
    assert!(folder.put("b.yaml", &service("a", "10.0.0.3")).is_empty());
    assert!(folder.put("n.yaml", &service("a", "10.0.0.4")).is_empty());
    assert_eq!(folder.errors().len(), 2);
    assert_eq!(folder.put("m.yaml", &service("a", "10.0.0.5")), ["a=10.0.0.5"]);
    // The incumbent goes: the first path of the others.
    assert_eq!(folder.batch(&[], &["m.yaml"]), ["a=10.0.0.3"]);
    assert_eq!(folder.batch(&[], &["b.yaml"]), ["a=10.0.0.4"]);
    assert!(folder.errors().is_empty());
    // A file that is renamed is no conflict, if both happen in one batch.
    assert!(folder.batch(&[("z.yaml", &service("a", "10.0.0.4"))], &["n.yaml"]).is_empty());
    assert!(folder.errors().is_empty());
}

#[test]
fn of_two_documents_with_the_same_object_the_incumbent_stays() {
    let mut folder = Folder::default();
    folder.put("f.yaml", &service("a", "10.0.0.1"));
    let above = service("a", "10.0.0.2") + &service("a", "10.0.0.1");
    assert!(folder.put("f.yaml", &above).is_empty());
    assert_eq!(
        folder.errors(),
        ["f.yaml:2:1: error: Service default/a is defined twice; this definition is not served \
          (the one on line 9 is served instead: delete or rename one of them)"]
    );
    assert_eq!(folder.put("f.yaml", &service("a", "10.0.0.2")), ["a=10.0.0.2"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn a_cluster_ip_that_is_taken_is_refused() {
    let mut folder = Folder::default();
    folder.put("f.yaml", &(service("a", "10.0.0.1") + &service("b", "10.0.0.2")));
    assert!(folder.put("e.yaml", &service("c", "10.0.0.1")).is_empty());
    assert_eq!(
        folder.errors(),
        ["e.yaml:6:14: error: spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: failed to allocate \
          IP 10.0.0.1: provided IP is already allocated (default/a (f.yaml:2) has it; choose \
          another)"]
    );
    // The incumbent may not take it either by a change; it keeps what it had.
    let taking = service("a", "10.0.0.2") + &service("b", "10.0.0.2");
    assert!(folder.put("f.yaml", &taking).is_empty());
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.2");
    assert_eq!(folder.errors().len(), 2);
    // When it is free, who waited gets it.
    assert_eq!(folder.put("f.yaml", &service("b", "10.0.0.2")), ["-a", "c=10.0.0.1"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn of_one_file_the_first_document_has_what_two_ask_for() {
    let mut folder = Folder::default();
    let both = node_port("b", "10.0.0.2", 30080) + &node_port("a", "10.0.0.1", 30080);
    assert_eq!(folder.put("f.yaml", &both), ["b=10.0.0.2,30080"]);
    assert!(folder.errors()[0].starts_with("f.yaml:16:32: error: "), "{:?}", folder.errors());
}

#[test]
fn a_node_port_that_is_taken_is_refused() {
    let mut folder = Folder::default();
    let (a, b) = (node_port("a", "10.0.0.1", 30080), node_port("b", "10.0.0.2", 30080));
    assert_eq!(folder.batch(&[("b.yaml", &b), ("a.yaml", &a)], &[]), ["a=10.0.0.1,30080"]);
    assert_eq!(
        folder.errors(),
        ["b.yaml:8:32: error: spec.ports[0].nodePort: Invalid value: 30080: provided port is \
          already allocated (default/a (a.yaml:2) has it; choose another)"]
    );
    assert_eq!(folder.put("b.yaml", &node_port("b", "10.0.0.2", 30081)), ["b=10.0.0.2,30081"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn a_health_check_port_and_a_node_port_exclude_each_other() {
    let checked = |name: &str, ip: &str, port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: \
             LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {port}\n  \
             clusterIP: {ip}\n  ports: [{{port: 80}}]\n"
        )
    };
    // Whichever comes second is refused, and the other stays.
    let mut folder = Folder::default();
    folder.put("a.yaml", &node_port("a", "10.0.0.1", 30090));
    assert!(folder.put("b.yaml", &checked("b", "10.0.0.2", 30090)).is_empty());
    assert_eq!(folder.held(), "a=10.0.0.1,30090");
    assert_eq!(
        folder.errors(),
        ["b.yaml:7:24: error: spec.healthCheckNodePort: Invalid value: 30090: provided port is \
          already allocated (default/a (a.yaml:2) has it; choose another)"]
    );
    let mut folder = Folder::default();
    folder.put("b.yaml", &checked("b", "10.0.0.2", 30090));
    assert!(folder.put("a.yaml", &node_port("a", "10.0.0.1", 30090)).is_empty());
    assert!(folder.put("c.yaml", &checked("c", "10.0.0.3", 30090)).is_empty());
    assert_eq!(folder.held(), "b=10.0.0.2,30090");
    let errors = folder.errors();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].contains("spec.ports[0].nodePort: Invalid value: 30090"), "{errors:?}");
    assert!(errors[1].contains("default/b (b.yaml:"), "{errors:?}");
    // The port is free when its Service gives it up.
    folder.put("b.yaml", &checked("b", "10.0.0.2", 30091));
    assert_eq!(folder.held(), "a=10.0.0.1,30090 b=10.0.0.2,30091");
}

#[test]
fn two_services_may_swap_what_they_have_in_one_batch() {
    let mut folder = Folder::default();
    folder.put("f.yaml", &(service("a", "10.0.0.1") + &service("b", "10.0.0.2")));
    let swapped = service("a", "10.0.0.2") + &service("b", "10.0.0.1");
    assert_eq!(folder.put("f.yaml", &swapped), ["a=10.0.0.2", "b=10.0.0.1"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn a_chain_of_refusals_leaves_all_as_they_were() {
    let mut folder = Folder::default();
    let all = |ips: [&str; 3]| {
        let names = ["a", "b", "c"].iter().zip(ips);
        names.map(|(name, ip)| service(name, ip)).collect::<String>()
    };
    folder.put("f.yaml", &all(["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    // a wants b's, b wants c's, and c stays: so b must stay, and so must a.
    assert!(folder.put("f.yaml", &all(["10.0.0.2", "10.0.0.3", "10.0.0.3"])).is_empty());
    assert_eq!(folder.held(), "a=10.0.0.1 b=10.0.0.2 c=10.0.0.3");
    assert_eq!(folder.errors().len(), 2);
}

#[test]
fn an_item_of_a_list_is_as_good_as_a_document() {
    let item = |name: &str, ip: &str| {
        service(name, ip).replacen("---\n", "- ", 1).replace("\n", "\n  ").trim_end().to_owned()
            + "\n"
    };
    let list = |items: &[String]| format!("apiVersion: v1\nitems:\n{}kind: List\n", items.concat());
    let mut folder = Folder::default();
    let text = list(&[item("a", "10.0.0.1"), item("b", "10.0.0.2")]);
    assert_eq!(folder.put("f.yaml", &text), ["a=10.0.0.1", "b=10.0.0.2"]);
    let bad = "- apiVersion: v1\n  kind: [Service\n".to_owned();
    let text = list(&[item("a", "10.0.0.3"), bad]);
    assert_eq!(folder.put("f.yaml", &text), ["a=10.0.0.3"]);
    assert_eq!(folder.held(), "a=10.0.0.3 b=10.0.0.2");
    let errors = folder.errors();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("f.yaml:1"), "{errors:?}");
    let anchored = list(&[
        "- &base\n  apiVersion: v1\n  kind: Namespace\n  metadata: {name: n}\n".to_owned(),
        "- <<: *base\n  metadata: {name: m}\n".to_owned(),
    ]);
    assert_eq!(folder.put("f.yaml", &anchored), ["-a", "-b", "m=", "n="]);
    assert!(folder.errors().is_empty());
}

#[test]
fn ten_thousand_services_that_want_the_same_address_are_settled_quickly() {
    let mut folder = Folder::default();
    let text: String = (0..10_000).map(|i| service(&format!("s{i}"), "10.0.0.1")).collect();
    let begun = std::time::Instant::now();
    assert_eq!(folder.put("f.yaml", &text).len(), 1);
    assert_eq!(folder.errors().len(), 9_999);
    // Generous: it takes well below a second even without optimisation.
    assert!(begun.elapsed().as_secs() < 30);
}

#[test]
fn of_kinds_that_nobody_asked_for_only_the_name_is_kept() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {key: hunter2}\n";
    let bad = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata: {key: '!'}\n";
    let kinds = Kinds::of(&[Kind::Service, Kind::EndpointSlice]);
    let mut catalogue = Catalogue::new(kinds);
    let path = FilePath::from(Path::new("f.yaml"));
    catalogue.put(&path, &(secret.to_owned() + bad), Format::Yaml);
    let events = catalogue.settle();
    assert!(matches!(&events[..], [Event::Apply(Record::NameOnly(_))]), "{events:?}");
    assert_eq!(catalogue.reports().len(), 1, "it is checked all the same");
    assert_eq!(catalogue.served()["Secret"], 1);
}
