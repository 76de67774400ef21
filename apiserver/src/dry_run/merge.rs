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

/// A patch would take too much work: it names the same elements of lists again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMuchWork;

/// The bytes of lists and keys that merging one patch may compare. A patch that names each element
/// once needs no more than the object and the patch have; one that names an element again has its
/// lists compared again.
const MAX_WORK: usize = 16 << 20;
/// What an element takes beside its key.
const STEP: usize = 16;

/// The work that is left to a patch.
struct Spare(usize);

impl Spare {
    /// Whether that much is left; nothing is left afterwards if not.
    fn take(&mut self, work: usize) -> bool {
        let left = self.0.checked_sub(work);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

/// A strategic merge patch.
///
/// # Errors
///
/// When it takes too much work; the target is then of no use.
pub(crate) fn strategic(
    target: &mut Object,
    patch: Object,
    structure: &Structure,
) -> Result<(), TooMuchWork> {
    merged(target, patch, structure, Form::Strategic)
}

/// A server-side apply.
///
/// # Errors
///
/// When it takes too much work; the target is then of no use.
pub(crate) fn apply(
    target: &mut Object,
    applied: Object,
    structure: &Structure,
) -> Result<(), TooMuchWork> {
    merged(target, applied, structure, Form::Apply)
}

fn merged(
    target: &mut Object,
    patch: Object,
    structure: &Structure,
    form: Form,
) -> Result<(), TooMuchWork> {
    let mut spare = Spare(MAX_WORK);
    object(target, patch, Some(structure), form, &mut spare);
    if spare.0 == 0 { Err(TooMuchWork) } else { Ok(()) }
}

fn object(
    target: &mut Object,
    mut patch: Object,
    structure: Option<&Structure>,
    form: Form,
    spare: &mut Spare,
) {
    if form == Form::Strategic {
        match patch.remove(PATCH).as_ref().and_then(Value::as_str) {
            Some("delete") => return target.clear(),
            Some("replace") => target.clear(),
            _ => {}
        }
        if let Some(Value::Array(keep)) = patch.remove(RETAIN_KEYS) {
            if !spare.take(STEP * (target.len() + keep.len())) {
                return;
            }
            let keep: HashSet<_> = keep.iter().filter_map(Value::as_str).collect();
            target.retain(|key, _| keep.contains(key.as_str()));
        }
    }
    let mut orders = Vec::new();
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(ELEMENT_ORDER) {
            orders.push((list.to_owned(), value));
        } else if let Some(list) = key.strip_prefix(DELETE_FROM_LIST) {
            delete_values(target.get_mut(list), &value, spare);
        } else if !key.starts_with(DIRECTIVE) {
            let field = structure.and_then(|structure| structure.field(&key));
            member(target, key, value, field, form, spare);
        }
    }
    for (list, order) in orders {
        let keys = keys(&list, structure.and_then(|structure| structure.field(&list)));
        sort(target.get_mut(&list), &order, keys.first().copied(), spare);
    }
}

/// The keys of a list; none: it is replaced whole.
fn keys(name: &str, field: Option<&Field>) -> &'static [&'static str] {
    match field {
        Some(field) => field.keys,
        None => OTHER_KEYS.iter().find(|(key, _)| *key == name).map_or(&[], |(_, keys)| keys),
    }
}

fn member(
    target: &mut Object,
    key: String,
    value: Value,
    field: Option<&Field>,
    form: Form,
    spare: &mut Spare,
) {
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
            object(below, value, structure, form, spare);
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
            list(below, elements, keys, field, form, spare);
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
    spare: &mut Spare,
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
    let mut known: HashMap<String, usize> = of_target
        .map_while(|(at, element)| Some((identity(element, keys, spare)?, at)))
        .filter_map(|(identity, at)| Some((identity?, at)))
        .collect();
    let mut deleted = vec![false; target.len()];
    for element in elements {
        let Some(identity) = identity(&element, keys, spare) else { return };
        let at = identity.as_ref().and_then(|identity| known.get(identity)).copied();
        match (directive(&element).as_deref(), at) {
            (Some("replace"), _) | (Some("delete"), None) => {}
            (Some("delete"), Some(at)) => deleted[at] = true,
            (_, Some(at)) => {
                deleted[at] = false;
                if let (Value::Object(known), Value::Object(new)) = (&mut target[at], element) {
                    object(known, new, structure, form, spare);
                }
            }
            (_, None) => {
                known.extend(identity.map(|identity| (identity, target.len())));
                deleted.push(false);
                target.push(match element {
                    Value::Object(new) => {
                        let mut merged = Object::new();
                        object(&mut merged, new, structure, form, spare);
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

/// The text that identifies an element of a list: `Some(None)` if it lacks a key, `None` if no work
/// is left.
fn identity(element: &Value, keys: &[&str], spare: &mut Spare) -> Option<Option<String>> {
    let identity = if keys.is_empty() {
        Some(element.to_string())
    } else {
        let key = |name: &&str| match element.get(*name) {
            Some(value) => Some(value.to_string()),
            // What Kubernetes takes for one that is not given.
            None => (*name == "protocol").then(|| "\"TCP\"".to_owned()),
        };
        keys.iter().map(key).collect::<Option<Vec<_>>>().map(|parts| parts.join(" "))
    };
    spare.take(STEP + identity.as_ref().map_or(0, String::len)).then_some(identity)
}

fn delete_values(target: Option<&mut Value>, values: &Value, spare: &mut Spare) {
    if let (Some(Value::Array(target)), Value::Array(values)) = (target, values) {
        let mut text = |value: &Value| identity(value, &[], spare).flatten();
        let values: HashSet<_> = values.iter().map_while(&mut text).collect();
        target.retain(|value| text(value).is_none_or(|text| !values.contains(&text)));
    }
}

/// Brings the elements that an order names into it; the others stay behind them.
fn sort(target: Option<&mut Value>, order: &Value, key: Option<&str>, spare: &mut Spare) {
    let (Some(Value::Array(target)), Value::Array(order)) = (target, order) else { return };
    let keys: Vec<_> = key.into_iter().collect();
    let order = order.iter().enumerate();
    let mut identity = |element: &Value| identity(element, &keys, spare).flatten();
    let places: HashMap<_, _> =
        order.filter_map(|(at, named)| Some((identity(named)?, at))).collect();
    target.sort_by_cached_key(|element| {
        let place = identity(element).and_then(|identity| places.get(&identity).copied());
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

    type Merge = fn(&mut Object, Object, &Structure) -> Result<(), TooMuchWork>;

    #[allow(clippy::needless_pass_by_value, reason = "literals read better by value")]
    #[track_caller]
    fn check(form: Merge, spec: Value, patch: Value, then: Value) {
        let mut target = map(json!({"spec": spec}));
        form(&mut target, map(json!({"spec": patch})), &Kind::Service.structure()).unwrap();
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
        strategic(&mut pod, map(patch), &Kind::Pod.structure()).unwrap();
        let volumes = json!([{"name": "b"}, {"name": "a", "x": 1, "y": 2}]);
        assert_eq!(pod["spec"]["volumes"], volumes);
    }

    /// Each key of the object was compared with each key of the list: 40 seconds for 640 KB.
    #[test]
    fn many_kept_keys_are_looked_up_at_once() {
        let labels: Object = (0..100_000).map(|at| (format!("l{at}"), "x".into())).collect();
        let keep: Vec<_> = (0..100_000).map(|at| Value::from(format!("l{}", 2 * at))).collect();
        let mut target = map(json!({"metadata": {"labels": labels}}));
        let patch = json!({"metadata": {"labels": {"$retainKeys": keep}}});
        let begun = std::time::Instant::now();
        strategic(&mut target, map(patch), &Kind::Service.structure()).unwrap();
        assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
        assert_eq!(target["metadata"]["labels"].as_object().unwrap().len(), 50_000);
    }

    /// A list of an element was compared again each time that a patch named the element.
    #[test]
    fn a_patch_that_names_an_element_again_and_again_is_refused() {
        let env: Vec<_> = (0..20_000).map(|at| json!({"name": format!("e{at}")})).collect();
        let name = |env: Value| json!({"name": "c", "env": env});
        let again = |count: usize| {
            let named = std::iter::repeat_n(name(json!([{"name": "e1", "value": "x"}])), count);
            map(json!({"spec": {"containers": named.collect::<Vec<_>>()}}))
        };
        let pod = map(json!({"spec": {"containers": [name(env.into())]}}));
        for form in [strategic as Merge, apply] {
            let mut once = pod.clone();
            form(&mut once, again(1), &Kind::Pod.structure()).unwrap();
            assert_eq!(once["spec"]["containers"][0]["env"][1]["value"], "x");
            let refused = form(&mut pod.clone(), again(20_000), &Kind::Pod.structure());
            assert_eq!(refused, Err(TooMuchWork));
        }
    }
}
