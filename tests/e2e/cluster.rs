//! `configs/kubernetes`: the manifests are valid for Kubernetes, their processes run as configured,
//! and each account has exactly the rights that its process needs.

mod in_pods;
mod manifests;

use std::collections::BTreeSet;
use std::process::Command;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{IngressClass, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use model::{Kind, Kinds, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::manifests::{Rule, pod, workload};
use self::manifests::{args, asked, environment, files, flag, folder, granted, object, objects};
use crate::feed_client::api::{Access, Api};
use crate::feed_client::kubeconfig_without_tls;
use crate::support::{Folder, Net, Switchyard, eventually, http_get};

const PROCESSES: [&str; 3] = ["proxy", "ingress", "dns"];

/// Checks that a type of the API has every field of an object, with the same structure.
fn is_read_whole<T: DeserializeOwned + Serialize>(object: &Value) {
    let read: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}"));
    let written = serde_json::to_value(read).unwrap();
    assert_within(object, &written, &object["kind"].to_string());
}

fn assert_within(part: &Value, whole: &Value, place: &str) {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            for (name, value) in part {
                let place = format!("{place}.{name}");
                let written = whole.get(name);
                let written = written.unwrap_or_else(|| panic!("{place} is no field of the API"));
                assert_within(value, written, &place);
            }
        }
        (Value::Array(part), Value::Array(whole)) => {
            assert_eq!(part.len(), whole.len(), "{place}");
            for (part, whole) in part.iter().zip(whole) {
                assert_within(part, whole, place);
            }
        }
        _ => assert_eq!(part, whole, "{place}"),
    }
}

#[test]
fn every_object_is_one_of_the_api_with_fields_of_the_api() {
    for object in objects() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
            ("v1", "Namespace") => is_read_whole::<Namespace>(&object),
            ("v1", "Service") => is_read_whole::<Service>(&object),
            ("v1", "ServiceAccount") => is_read_whole::<ServiceAccount>(&object),
            ("apps/v1", "DaemonSet") => is_read_whole::<DaemonSet>(&object),
            ("apps/v1", "Deployment") => is_read_whole::<Deployment>(&object),
            ("networking.k8s.io/v1", "IngressClass") => is_read_whole::<IngressClass>(&object),
            ("networking.k8s.io/v1", "NetworkPolicy") => is_read_whole::<NetworkPolicy>(&object),
            ("policy/v1", "PodDisruptionBudget") => {
                is_read_whole::<PodDisruptionBudget>(&object);
            }
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => {
                is_read_whole::<ClusterRole>(&object);
            }
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                is_read_whole::<ClusterRoleBinding>(&object);
            }
            other => panic!("{other:?} {name}"),
        }
    }
}

/// An unknown field fails the test above.
#[test]
#[should_panic(expected = "spec.clusterIp is no field of the API")]
fn a_field_that_is_misspelled_is_found() {
    is_read_whole::<Service>(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
        "spec": { "clusterIp": "10.96.0.1" },
    }));
}

#[test]
fn the_kustomization_names_every_file() {
    let found: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    assert_eq!(files().into_iter().collect::<BTreeSet<_>>(), found);
}

#[test]
fn pods_have_no_right_that_they_do_not_need() {
    for process in PROCESSES {
        let (pod, container) = pod(process);
        let own = &container["securityContext"];
        let of = |name: &str| match &own[name] {
            Value::Null => pod["securityContext"][name].clone(),
            value => value.clone(),
        };
        assert_eq!(of("allowPrivilegeEscalation"), false, "{process}");
        assert_eq!(of("readOnlyRootFilesystem"), true, "{process}");
        assert_eq!(of("seccompProfile")["type"], "RuntimeDefault", "{process}");
        assert_eq!(of("privileged"), Value::Null, "{process}");
        assert_eq!(of("capabilities")["drop"], json!(["ALL"]), "{process}");
        assert_eq!(pod["enableServiceLinks"], false, "its variables are not our flags");
        let is_proxy = process == "proxy";
        let added = is_proxy.then(|| json!(["NET_ADMIN", "NET_BIND_SERVICE"]));
        assert_eq!(of("capabilities")["add"], added.unwrap_or_default(), "{process}");
        assert_eq!(pod["hostNetwork"] == true, is_proxy, "{process}");
        assert_eq!(of("runAsNonRoot") == true, !is_proxy, "{process}");
        assert_eq!(of("runAsUser"), if is_proxy { 0 } else { 65532 }, "{process}");
    }
}

#[test]
fn probes_ask_where_the_admin_endpoint_is() {
    for process in PROCESSES {
        let (pod, container) = pod(process);
        let admin: std::net::SocketAddr = flag(process, "admin").parse().unwrap();
        let ports = container["ports"].as_array().unwrap();
        let named = ports.iter().find(|port| port["name"] == "admin").unwrap();
        assert_eq!(named["containerPort"], admin.port(), "{process}");
        for (probe, path) in
            [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
        {
            let request = &container[probe]["httpGet"];
            assert_eq!((&request["port"], &request["path"]), (&json!("admin"), &json!(path)));
            // The kubelet is on the node's network, and connects to the Pod's address by default.
            let is_loopback = pod["hostNetwork"] == true;
            assert_eq!(admin.ip().is_loopback(), is_loopback, "{process}");
            assert_eq!(request["host"].as_str(), is_loopback.then_some("127.0.0.1"), "{process}");
        }
        let seconds = |value: &Value| value.as_u64().unwrap_or(0);
        let drain = flag(process, "drain-timeout");
        let drain: u64 = drain.strip_suffix('s').unwrap().parse().unwrap();
        let pause = seconds(&container["lifecycle"]["preStop"]["sleep"]["seconds"]);
        let grace = seconds(&pod["terminationGracePeriodSeconds"]);
        assert!(grace > pause + drain, "{process}: {grace} s for {pause} s and {drain} s");
    }
}

#[test]
fn ports_selectors_and_the_class_fit_each_other() {
    for process in ["ingress", "dns"] {
        let workload = workload(process);
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let (service, policy) = (object("Service", process), object("NetworkPolicy", process));
        let budget = object("PodDisruptionBudget", process);
        assert_eq!(&service["spec"]["selector"], labels);
        for selector in [&workload["spec"], &budget["spec"]] {
            assert_eq!(&selector["selector"]["matchLabels"], labels);
        }
        assert_eq!(&policy["spec"]["podSelector"]["matchLabels"], labels);
        let (_, container) = pod(process);
        let ports: Vec<_> = container["ports"].as_array().unwrap().iter().collect();
        for port in service["spec"]["ports"].as_array().unwrap() {
            let named = ports.iter().find(|other| other["name"] == port["targetPort"]).unwrap();
            let protocol = |port: &Value| port["protocol"].as_str().unwrap_or("TCP").to_owned();
            assert_eq!(protocol(port), protocol(named));
            let number = named["containerPort"].as_u64().unwrap();
            let is_served = args(process).iter().any(|arg| arg.ends_with(&format!(":{number}")));
            assert!(is_served, "{process} serves no port {number}");
        }
    }
    let class = object("IngressClass", "switchyard");
    assert_eq!(flag("ingress", "ingress-class"), "switchyard");
    let help = Command::new(env!("CARGO_BIN_EXE_switchyard")).args(["ingress", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let controller = class["spec"]["controller"].as_str().unwrap();
    assert!(help.contains(&format!("controller is {controller},")), "{help}");
}

/// A process as in its manifest, but with the addresses of the test and without what needs
/// privileges.
fn start(process: &str, net: Net, config: &str, state: &Folder) -> Switchyard {
    let admin = net.addr(250, 7411);
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    for arg in args(process) {
        let (name, value) = arg.split_once('=').unwrap_or((&arg, ""));
        // Different from ports that other programs on this machine may use on all addresses.
        let port = |value: &str| 20_000 + value.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let value = match name {
            "--admin" => admin.to_string(),
            "--http" | "--https" | "--listen" => net.addr(4, port(value)).to_string(),
            "--state-dir" => state.path().display().to_string(),
            _ => {
                command.arg(arg);
                continue;
            }
        };
        command.arg(format!("{name}={value}"));
    }
    for (name, value) in environment(process) {
        match &*value {
            "spec.nodeName" => command.env(name, "node-1"),
            "status.hostIPs" => command.env(name, net.ip(200).to_string()),
            _ if name == "SWITCHYARD_SERVICE_CIDR" => &mut command,
            _ => command.env(name, value),
        };
    }
    command.env("KUBECONFIG", config).env("SWITCHYARD_WORKERS", "1");
    let process = Switchyard::spawn(command, admin);
    eventually("ready", || (process.admin_get("/readyz").0 == 200).then_some(()));
    process
}

/// In both directions: no right is missing, and no right is unused.
#[test]
fn each_account_may_do_what_its_process_does_and_nothing_else() {
    for process in PROCESSES {
        let (net, folder) = (Net::new(), Folder::new());
        let address = net.addr(2, 6443);
        let config = kubeconfig_without_tls(&folder, address);
        let mut seen = BTreeSet::new();
        let mut started = None;
        // After a server returns, a process lists before it watches.
        for verb in ["watch", "list"] {
            let api = Api::start(address, Access::Everybody, None, Vec::new());
            started.get_or_insert_with(|| start(process, net, &config, &folder));
            let kinds = granted(process).iter().filter(|(.., may)| may == verb).count();
            eventually(&format!("{process}: {verb} of {kinds} kinds"), || {
                seen.extend(api.targets().iter().filter_map(|target| asked(target)));
                (seen.iter().filter(|(.., asked)| asked == verb).count() >= kinds).then_some(())
            });
            drop(api);
            eventually("the address is free", || std::net::TcpListener::bind(address).ok());
        }
        assert_eq!(granted(process), seen, "{process}");
    }
    let may_read_secrets = |process: &&str| granted(process).iter().any(|(_, r, _)| r == "secrets");
    assert_eq!(PROCESSES.iter().filter(|p| may_read_secrets(p)).collect::<Vec<_>>(), [&"ingress"]);
}

/// The rights of each account are those of the table of kinds.
#[test]
fn each_account_may_list_the_kinds_that_the_table_says_and_no_others() {
    let of_process = [("proxy", Process::Proxy), ("ingress", Process::Ingress)];
    for (name, process) in of_process.into_iter().chain([("dns", Process::Dns)]) {
        let kinds = Kinds::listed_by(process);
        let listed = Kind::ALL.into_iter().filter(|kind| kinds.contains(*kind));
        let rule = |kind: Kind, verb: &str| {
            (kind.group().to_owned(), kind.plural().to_owned(), verb.to_owned())
        };
        let expected: BTreeSet<_> =
            listed.flat_map(|kind| ["list", "watch"].map(|verb| rule(kind, verb))).collect();
        let may_list = |(_, _, verb): &Rule| verb == "list" || verb == "watch";
        let granted: BTreeSet<_> = granted(name).into_iter().filter(may_list).collect();
        assert_eq!(granted, expected, "configs/kubernetes/{name}.yaml");
    }
}

/// The response to a kubelet's probe, and to a request of a web page through DNS rebinding.
#[test]
fn the_admin_endpoint_answers_an_address_and_no_name() {
    let (net, folder) = (Net::new(), Folder::new());
    let address = net.addr(2, 6443);
    let _api = Api::start(address, Access::Everybody, None, Vec::new());
    let config = kubeconfig_without_tls(&folder, address);
    let process = start("dns", net, &config, &folder);
    let code = |host: &str, path| http_get(process.admin, host, path).unwrap().0;
    for host in ["10.1.2.3:7431", "10.1.2.3", "[fd00::1]:7431", "127.0.0.1:7431"] {
        assert_eq!(code(host, "/readyz"), 200, "{host}");
    }
    for host in ["dns.switchyard.svc", "dns.switchyard.svc:7431", "evil.example", "10.1.2.3.nip.io"]
    {
        assert_eq!(code(host, "/snapshot"), 403, "{host}");
    }
}

/// The overlay in the docs has the described result, and a plain build contains every object.
#[test]
#[ignore = "needs kubectl"]
fn kubectl_builds_it() {
    let built = build(&folder());
    assert_eq!(built.len(), objects().len());
    let images: BTreeSet<_> = PROCESSES.map(|process| image(&built, process)).into();
    assert_eq!(images, BTreeSet::from(["switchyard:0.1.0".to_owned()]));
    let page = include_str!("../../docs/cluster.md");
    let overlay = page.split("```yaml\n# my-cluster/kustomization.yaml\n").nth(1).unwrap();
    let overlay = overlay.split("```").next().unwrap();
    let above = Folder::new();
    let base = above.file("configs/kubernetes");
    std::fs::create_dir_all(&base).unwrap();
    for file in files().iter().map(String::as_str).chain(["kustomization.yaml"]) {
        std::fs::copy(folder().join(file), base.join(file)).unwrap();
    }
    let mine = above.file("my-cluster");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(mine.join("kustomization.yaml"), overlay).unwrap();
    let built = build(&mine);
    assert_eq!(built.len(), objects().len());
    assert_eq!(image(&built, "dns"), "10.0.0.5:5000/switchyard:0.1.0");
    let of = |kind: &str, name: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        built.iter().find(is_it).unwrap()
    };
    assert_eq!(of("Service", "dns")["spec"]["clusterIP"], "10.43.0.53");
    let container = &of("DaemonSet", "proxy")["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].to_string();
    for expected in ["10.43.0.0/16", "KUBERNETES_SERVICE_HOST", "status.hostIPs"] {
        assert!(variables.contains(expected), "{expected} in {variables}");
    }
}

fn build(folder: &std::path::Path) -> Vec<Value> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn image(built: &[Value], process: &str) -> String {
    let name = |object: &&Value| {
        object["metadata"]["name"] == process && object["spec"]["template"].is_object()
    };
    let found = built.iter().find(name).unwrap();
    found["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}
