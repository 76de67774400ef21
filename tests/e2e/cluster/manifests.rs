//! The manifests of `configs/kubernetes`, read as JSON.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A group, a resource of it, and what is done with it.
pub(super) type Rule = (String, String, String);

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/kubernetes")
}

/// The files that the kustomization names.
pub(super) fn files() -> Vec<String> {
    let text = std::fs::read_to_string(folder().join("kustomization.yaml")).unwrap();
    let kustomization: Value = serde_saphyr::from_str(&text).unwrap();
    let names = kustomization["resources"].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// All objects of these files.
pub(super) fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    for file in files() {
        let text = std::fs::read_to_string(folder().join(&file)).unwrap();
        for document in text.split("\n---\n") {
            let object = serde_saphyr::from_str::<Value>(document);
            objects.push(object.unwrap_or_else(|error| panic!("{file}: {error}")));
        }
    }
    objects
}

pub(super) fn object(kind: &str, name: &str) -> Value {
    let is_it = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let found = objects().into_iter().find(is_it);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// The DaemonSet or Deployment of a process.
pub(super) fn workload(process: &str) -> Value {
    object(if process == "proxy" { "DaemonSet" } else { "Deployment" }, process)
}

/// What a Pod of a process is made of, and its only container.
pub(super) fn pod(process: &str) -> (Value, Value) {
    let spec = workload(process)["spec"]["template"]["spec"].take();
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{process}");
    (spec.clone(), containers[0].clone())
}

pub(super) fn args(process: &str) -> Vec<String> {
    let (_, container) = pod(process);
    let args = container["args"].as_array().unwrap().iter();
    args.map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

/// The value of a flag.
pub(super) fn flag(process: &str, name: &str) -> String {
    let args = args(process);
    let value = args.iter().find_map(|arg| arg.strip_prefix(&format!("--{name}=")));
    value.unwrap_or_else(|| panic!("{process} has no --{name}")).to_owned()
}

/// The variables of a process's container; those of the Pod have the name of its field as value.
pub(super) fn environment(process: &str) -> Vec<(String, String)> {
    let (_, container) = pod(process);
    let variables = container["env"].as_array().cloned().unwrap_or_default();
    let of = |variable: &Value| {
        let field = &variable["valueFrom"]["fieldRef"]["fieldPath"];
        let value = variable["value"].as_str().or(field.as_str()).unwrap();
        (variable["name"].as_str().unwrap().to_owned(), value.to_owned())
    };
    variables.iter().map(of).collect()
}

/// The rights of a process's account.
pub(super) fn granted(process: &str) -> BTreeSet<Rule> {
    let role = object("ClusterRole", &format!("switchyard-{process}"));
    let binding = object("ClusterRoleBinding", &format!("switchyard-{process}"));
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], process);
    assert_eq!(binding["subjects"][0]["namespace"], "switchyard");
    assert_eq!(pod(process).0["serviceAccountName"], process);
    let words = |list: &Value| -> Vec<String> {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = words(&rule["resourceNames"]);
        let named = |resource: String| match &names[..] {
            [] => vec![resource],
            names => names.iter().map(|name| format!("{resource}/{name}")).collect(),
        };
        let resources: Vec<_> = words(&rule["resources"]).into_iter().flat_map(named).collect();
        for group in words(&rule["apiGroups"]) {
            for resource in &resources {
                let of = |verb| (group.clone(), resource.clone(), verb);
                granted.extend(words(&rule["verbs"]).into_iter().map(of));
            }
        }
    }
    granted
}

/// What a request for `target` asks an API server's authorizer for; nothing for a path outside of
/// all groups, such as /version, which everybody may read.
pub(super) fn asked(target: &str) -> Option<Rule> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let is_watch = query.split('&').any(|pair| matches!(pair, "watch=1" | "watch=true"));
    let verb = if is_watch { "watch" } else { "list" };
    match parts[..] {
        ["api", "v1", resource] => Some(("".into(), resource.into(), verb.into())),
        ["apis", group, _, resource] => Some((group.into(), resource.into(), verb.into())),
        ["api", "v1", resource, name] => {
            Some(("".into(), format!("{resource}/{name}"), "get".into()))
        }
        ["version"] => None,
        _ => panic!("a request that no role was thought of for: {target}"),
    }
}
