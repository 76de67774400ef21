//! Patches: an object and what is to change of it → the object after that.
//!
//! Pure. Three of the forms of Kubernetes: JSON merge patch (RFC 7396), strategic merge patch, and
//! server-side apply. The last two merge some lists by keys of their elements, which the shape of
//! the kind says ([`model::shape`]). Left out: who owns which field. Without owners, an apply
//! removes nothing that it does not name.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use model::shape::{Field, Shape, Structure};

type Object = Map<String, Value>;

/// What marks members of a strategic merge patch that are no fields.
const DIRECTIVE: char = '$';
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const RETAIN_KEYS: &str = "$retainKeys";
const PATCH: &str = "$patch";

/// Keys of lists in the fields that a type does not list ([`Structure::is_open`]).
const OTHER_KEYS: [(&str, &[&str]); 5] = [
    ("env", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// A JSON merge patch.
pub(crate) fn json(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Object::new().into();
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            json(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// How the rules of two forms of patches differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Elements are told apart by the first key; null removes; there are directives.
    Strategic,
    /// Elements are told apart by all keys; null is as good as absent.
    Apply,
}

/// A strategic merge patch.
pub(crate) fn strategic(target: &mut Object, patch: Object, structure: &Structure) {
    object(target, patch, Some(structure), Form::Strategic);
}

/// A server-side apply.
pub(crate) fn apply(target: &mut Object, applied: Object, structure: &Structure) {
    object(target, applied, Some(structure), Form::Apply);
}

fn object(target: &mut Object, mut patch: Object, structure: Option<&Structure>, form: Form) {
    if form == Form::Strategic {
        match patch.remove(PATCH).as_ref().and_then(Value::as_str) {
            Some("delete") => return target.clear(),
            Some("replace") => target.clear(),
            _ => {}
        }
        if let Some(Value::Array(keep)) = patch.remove(RETAIN_KEYS) {
            target.retain(|key, _| keep.iter().any(|kept| kept == key));
        }
    }
    let mut orders = Vec::new();
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(ELEMENT_ORDER) {
            orders.push((list.to_owned(), value));
        } else if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_values(target.get_mut(list), &value);
        } else if !key.starts_with(DIRECTIVE) {
            let field = structure.and_then(|structure| structure.field(&key));
            member(target, key, value, field, form);
        }
    }
    for (list, order) in orders {
        let keys = keys(&list, structure.and_then(|structure| structure.field(&list)));
        sort(target.get_mut(&list), &order, keys.first().copied());
    }
}

/// The keys of a list; none: it is replaced whole.
fn keys(name: &str, field: Option<&Field>) -> &'static [&'static str] {
    match field {
        Some(field) => field.keys,
        None => OTHER_KEYS.iter().find(|(key, _)| *key == name).map_or(&[], |(_, keys)| keys),
    }
}

fn member(target: &mut Object, key: String, value: Value, field: Option<&Field>, form: Form) {
    match value {
        Value::Null if form == Form::Strategic => {
            target.remove(&key);
        }
        Value::Null => {}
        Value::Object(value) => {
            let structure = field.and_then(|field| match &field.shape {
                Shape::Object(structure) => Some(structure),
                _ => None,
            });
            let below = target.entry(key).or_insert(Value::Null);
            if !below.is_object() {
                *below = Object::new().into();
            }
            let Value::Object(below) = below else { return };
            object(below, value, structure, form);
        }
        Value::Array(elements) => {
            let keys = keys(&key, field);
            let keys = if form == Form::Strategic { &keys[..keys.len().min(1)] } else { keys };
            // Finalizers are a set: Kubernetes adds to them.
            let is_set = key == "finalizers";
            if keys.is_empty() && !is_set {
                target.insert(key, elements.into());
                return;
            }
            let below = target.entry(key).or_insert(Value::Null);
            if !below.is_array() {
                *below = Value::Array(Vec::new());
            }
            let Value::Array(below) = below else { return };
            list(below, elements, keys, field, form);
        }
        value => {
            target.insert(key, value);
        }
    }
}

fn list(
    target: &mut Vec<Value>,
    elements: Vec<Value>,
    keys: &[&str],
    field: Option<&Field>,
    form: Form,
) {
    let structure = field.and_then(|field| match &field.shape {
        Shape::List(element) => match &**element {
            Shape::Object(structure) => Some(structure),
            _ => None,
        },
        _ => None,
    });
    let directive = |element: &Value| match form {
        Form::Strategic => element.get(PATCH).and_then(Value::as_str).map(str::to_owned),
        Form::Apply => None,
    };
    if elements.iter().any(|element| directive(element).as_deref() == Some("replace")) {
        target.clear();
    }
    let of_target = target.iter().enumerate();
    let mut known: HashMap<String, usize> =
        of_target.filter_map(|(at, element)| Some((identity(element, keys)?, at))).collect();
    let mut deleted = vec![false; target.len()];
    for element in elements {
        let identity = identity(&element, keys);
        let at = identity.as_ref().and_then(|identity| known.get(identity)).copied();
        match (directive(&element).as_deref(), at) {
            (Some("replace"), _) | (Some("delete"), None) => {}
            (Some("delete"), Some(at)) => deleted[at] = true,
            (_, Some(at)) => {
                deleted[at] = false;
                if let (Value::Object(known), Value::Object(new)) = (&mut target[at], element) {
                    object(known, new, structure, form);
                }
            }
            (_, None) => {
                known.extend(identity.map(|identity| (identity, target.len())));
                deleted.push(false);
                target.push(match element {
                    Value::Object(new) => {
                        let mut merged = Object::new();
                        object(&mut merged, new, structure, form);
                        merged.into()
                    }
                    other => other,
                });
            }
        }
    }
    let mut deleted = deleted.into_iter();
    target.retain(|_| !deleted.next().unwrap_or_default());
}

/// By what an element of a list is known again. `None`: it lacks a key.
fn identity(element: &Value, keys: &[&str]) -> Option<String> {
    if keys.is_empty() {
        return Some(element.to_string());
    }
    let key = |name: &&str| match element.get(*name) {
        Some(value) => Some(value.to_string()),
        // What Kubernetes takes for one that is not given.
        None => (*name == "protocol").then(|| "\"TCP\"".to_owned()),
    };
    keys.iter().map(key).collect::<Option<Vec<_>>>().map(|parts| parts.join(" "))
}

fn delete_values(target: Option<&mut Value>, values: &Value) {
    if let (Some(Value::Array(target)), Value::Array(values)) = (target, values) {
        let values: HashSet<_> = values.iter().map(Value::to_string).collect();
        target.retain(|value| !values.contains(&value.to_string()));
    }
}

/// Brings the elements that an order names into it; the others stay behind them.
fn sort(target: Option<&mut Value>, order: &Value, key: Option<&str>) {
    let (Some(Value::Array(target)), Value::Array(order)) = (target, order) else { return };
    let keys: Vec<_> = key.into_iter().collect();
    let order = order.iter().enumerate();
    let places: HashMap<_, _> =
        order.filter_map(|(at, named)| Some((identity(named, &keys)?, at))).collect();
    target.sort_by_cached_key(|element| {
        let place = identity(element, &keys).and_then(|identity| places.get(&identity).copied());
        place.unwrap_or(usize::MAX)
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use model::Kind;

    fn map(value: Value) -> Object {
        match value {
            Value::Object(object) => object,
            other => panic!("{other}"),
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    #[track_caller]
    fn check(form: fn(&mut Object, Object, &Structure), spec: Value, patch: Value, then: Value) {
        let mut target = map(json!({"spec": spec}));
        form(&mut target, map(json!({"spec": patch})), &Kind::Service.structure());
        assert_eq!(target["spec"], then, "{spec} + {patch}");
    }

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_nulls() {
        let mut target = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        json(&mut target, json!({"a": {"b": null, "c": [3]}, "e": {"f": null, "g": 1}}));
        assert_eq!(target, json!({"a": {"c": [3]}, "d": 1, "e": {"g": 1}}));
    }

    #[test]
    fn a_strategic_patch_merges_ports_by_number() {
        let ports = json!({"ports": [{"port": 80, "name": "a"}, {"port": 81}]});
        check(
            strategic,
            ports.clone(),
            json!({"ports": [{"port": 80, "targetPort": 8080}, {"port": 82}]}),
            json!({"ports": [{"port": 80, "name": "a", "targetPort": 8080}, {"port": 81},
                             {"port": 82}]}),
        );
        check(
            strategic,
            ports.clone(),
            json!({"$setElementOrder/ports": [{"port": 82}, {"port": 80}],
                   "ports": [{"port": 82}, {"$patch": "delete", "port": 81},
                             {"port": 80, "name": null}]}),
            json!({"ports": [{"port": 82}, {"port": 80}]}),
        );
        check(
            strategic,
            ports.clone(),
            json!({"ports": [{"port": 82}, {"$patch": "replace"}]}),
            json!({"ports": [{"port": 82}]}),
        );
        check(
            strategic,
            ports,
            json!({"ports": null, "selector": {"a": "b"}}),
            json!({"selector": {"a": "b"}}),
        );
    }

    #[test]
    fn directives_of_objects() {
        let selector = json!({"selector": {"a": "b", "c": "d"}, "type": "ClusterIP"});
        check(
            strategic,
            selector.clone(),
            json!({"selector": {"$patch": "replace", "e": "f"}}),
            json!({"selector": {"e": "f"}, "type": "ClusterIP"}),
        );
        check(
            strategic,
            selector.clone(),
            json!({"selector": {"$patch": "delete"}}),
            json!({"selector": {}, "type": "ClusterIP"}),
        );
        check(
            strategic,
            selector,
            json!({"$retainKeys": ["type"], "type": "NodePort"}),
            json!({"type": "NodePort"}),
        );
        let ips = json!({"externalIPs": ["192.0.2.1", "192.0.2.2"]});
        check(
            strategic,
            ips.clone(),
            json!({"externalIPs": ["192.0.2.3"]}),
            json!({"externalIPs": ["192.0.2.3"]}),
        );
        let delete = json!({"$deleteFromPrimitiveList/externalIPs": ["192.0.2.1"]});
        check(strategic, ips, delete, json!({"externalIPs": ["192.0.2.2"]}));
    }

    #[test]
    fn an_apply_merges_ports_by_number_and_protocol() {
        let ports = json!({"ports": [{"port": 53, "protocol": "TCP", "name": "a"}]});
        check(
            apply,
            ports,
            json!({"ports": [{"port": 53, "name": "b"}, {"port": 53, "protocol": "UDP"}],
                   "clusterIP": null}),
            json!({"ports": [{"port": 53, "protocol": "TCP", "name": "b"},
                             {"port": 53, "protocol": "UDP"}]}),
        );
    }

    #[test]
    fn fields_of_a_pod_that_are_not_listed_are_merged_too() {
        let mut pod = map(json!({"spec": {"volumes": [{"name": "a", "x": 1}], "containers": []}}));
        let patch = json!({"spec": {"volumes": [{"name": "a", "y": 2}, {"name": "b"}],
                                    "$setElementOrder/volumes": [{"name": "b"}, {"name": "a"}]}});
        strategic(&mut pod, map(patch), &Kind::Pod.structure());
        let volumes = json!([{"name": "b"}, {"name": "a", "x": 1, "y": 2}]);
        assert_eq!(pod["spec"]["volumes"], volumes);
    }
}
