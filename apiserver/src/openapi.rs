//! OpenAPI documents of the kinds that are served, versions 2 and 3: for `kubectl explain`,
//! validation by clients, and generators of clients.
//!
//! Pure. Everything follows from the table of kinds and the types that manifests are decoded into
//! ([`model::shape`]), so that a document has exactly the fields that the parser accepts. A
//! document is created when it is first requested. The server is read-only, so operations that
//! write have the parameter `dryRun`. `fieldValidation` is not offered, so that `kubectl` validates
//! by the schema itself even where it sends nothing (`--dry-run=client`).

mod protobuf;

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::discovery::RELEASE;
use model::shape::{Field, Shape, Structure};
use model::{Kind, describe};

/// The version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Two,
    Three,
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The document of version 2, as JSON.
pub(crate) fn v2_json() -> Bytes {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| v2().to_string().into());
    TEXT.clone()
}

/// The document of version 2, in the encoding that `kubectl` asks for.
pub(crate) fn v2_protobuf() -> Bytes {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| protobuf::document(&v2()).into());
    TEXT.clone()
}

/// The documents of version 3: the index, and the document of each group.
struct Three {
    index: Bytes,
    groups: Vec<(&'static str, Bytes)>,
}

static THREE: LazyLock<Three> = LazyLock::new(|| {
    let document = |group| (group, Bytes::from(v3(group).to_string()));
    let groups: Vec<_> = Kind::groups().into_iter().map(document).collect();
    let mut paths = Map::new();
    for (group, text) in &groups {
        let path = group_path(group);
        let url = format!("/openapi/v3/{path}?hash={}", hash(text));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    Three { index: json!({"paths": paths}).to_string().into(), groups }
});

/// What documents of version 3 there are. Each URL has a hash, by which clients know theirs again.
pub(crate) fn v3_index() -> Bytes {
    THREE.index.clone()
}

/// The document of a group; `None` if it is not served.
pub(crate) fn v3_document(group: &str) -> Option<Bytes> {
    THREE.groups.iter().find(|(name, _)| *name == group).map(|(_, text)| text.clone())
}

fn hash(text: &[u8]) -> String {
    digest(&SHA256, text).as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `api/v1`, `apis/GROUP/v1`.
fn group_path(group: &str) -> String {
    match group {
        "" => format!("api/{}", Kind::VERSION),
        group => format!("apis/{group}/{}", Kind::VERSION),
    }
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": RELEASE})
}

fn v2() -> Value {
    let mut schemas = Schemas::new(Version::Two);
    Kind::ALL.into_iter().for_each(|kind| schemas.add_kind(kind));
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": schemas.all})
}

fn v3(group: &str) -> Value {
    let mut schemas = Schemas::new(Version::Three);
    let mut paths = Map::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.group() == group) {
        schemas.add_kind(kind);
        paths.extend(paths_of(kind));
    }
    let components = json!({"schemas": schemas.all});
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": components})
}

/// Schemas by the name of their type.
struct Schemas {
    version: Version,
    all: Map<String, Value>,
}

impl Schemas {
    fn new(version: Version) -> Schemas {
        Schemas { version, all: Map::new() }
    }

    fn add_kind(&mut self, kind: Kind) {
        let structure = kind.structure();
        let mut schema = self.structure(kind, &structure);
        schema["x-kubernetes-group-version-kind"] = json!([names(kind)]);
        self.all.insert(format!("{}.{}", package(kind), kind.as_str()), schema);
    }

    fn structure(&mut self, kind: Kind, structure: &Structure) -> Value {
        let about = describe::about(structure.name);
        let mut schema = json!({"type": "object", "description": about});
        if structure.is_open {
            // A client that validates by version 2 refuses each field that is not among those of an
            // object, but none of an object without any.
            if self.version == Version::Two {
                return schema;
            }
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        let mut properties = Map::new();
        for field in &structure.fields {
            properties.insert(field.name.to_owned(), self.field(kind, structure.name, field));
        }
        schema["properties"] = properties.into();
        schema
    }

    fn field(&mut self, kind: Kind, type_name: &str, field: &Field) -> Value {
        let mut schema = self.value(kind, &field.shape);
        let text = describe::field(type_name, field.name);
        schema["description"] = if text.is_empty() { describe::UNUSED } else { text }.into();
        if let Shape::List(_) = field.shape {
            let list_type = if field.keys.is_empty() { "atomic" } else { "map" };
            schema["x-kubernetes-list-type"] = list_type.into();
        }
        if let Some(key) = field.keys.first() {
            schema["x-kubernetes-list-map-keys"] = json!(field.keys);
            schema["x-kubernetes-patch-merge-key"] = (*key).into();
            schema["x-kubernetes-patch-strategy"] = "merge".into();
        }
        schema
    }

    fn value(&mut self, kind: Kind, shape: &Shape) -> Value {
        match shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Integer => json!({"type": "integer", "format": "int64"}),
            Shape::Boolean => json!({"type": "boolean"}),
            Shape::TextMap => {
                json!({"type": "object", "additionalProperties": {"type": "string"}})
            }
            Shape::Any => json!({"type": "object"}),
            Shape::List(element) => json!({"type": "array", "items": self.value(kind, element)}),
            Shape::IntOrText => {
                let schema = match self.version {
                    Version::Two => json!({"type": "string", "format": "int-or-string"}),
                    Version::Three => json!({
                        "format": "int-or-string",
                        "oneOf": [{"type": "integer"}, {"type": "string"}],
                    }),
                };
                self.refer(INT_OR_STRING.to_owned(), |_| schema)
            }
            Shape::Object(structure) => {
                let name = type_name(kind, structure.name);
                self.refer(name, |schemas| schemas.structure(kind, structure))
            }
        }
    }

    /// A reference to a type, which is added if it is not there yet.
    fn refer(&mut self, name: String, make: impl FnOnce(&mut Schemas) -> Value) -> Value {
        let reference = match self.version {
            Version::Two => json!({"$ref": format!("#/definitions/{name}")}),
            // Beside a reference of this version nothing counts, so it stands alone.
            Version::Three => json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}]}),
        };
        if !self.all.contains_key(&name) {
            let schema = make(self);
            self.all.insert(name, schema);
        }
        reference
    }
}

/// The package of a kind's types, as Kubernetes names them.
fn package(kind: Kind) -> String {
    let group = kind.group().split('.').next().filter(|group| !group.is_empty());
    format!("io.k8s.api.{}.{}", group.unwrap_or("core"), Kind::VERSION)
}

/// The published name of a type.
fn type_name(kind: Kind, name: &str) -> String {
    let name = match name {
        "Meta" => return OBJECT_META.to_owned(),
        "ClientIpConfig" => "ClientIPConfig",
        "HttpIngressPath" => "HTTPIngressPath",
        "HttpIngressRuleValue" => "HTTPIngressRuleValue",
        "IngressTls" => "IngressTLS",
        "PodIp" => "PodIP",
        "ServiceCidrSpec" => "ServiceCIDRSpec",
        name => name,
    };
    format!("{}.{name}", package(kind))
}

fn names(kind: Kind) -> Value {
    json!({"group": kind.group(), "version": Kind::VERSION, "kind": kind.as_str()})
}

/// The paths of a kind with what may be done there.
fn paths_of(kind: Kind) -> Map<String, Value> {
    let operation = |action: &str, writes: bool| {
        let mut operation = json!({
            "description": format!("{action} {}", kind.plural()),
            "operationId": format!("{action}{}", kind.as_str()),
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": names(kind),
        });
        if writes {
            operation["parameters"] = json!([{
                "name": "dryRun",
                "in": "query",
                "required": true,
                "description": "Must be All: the object is validated and returned, but not stored.",
                "schema": {"type": "string"},
            }]);
        }
        operation
    };
    let all = kind.collection_path();
    let (base, plural) = (all.trim_end_matches(kind.plural()), kind.plural());
    let collection = match kind.is_namespaced() {
        true => format!("{base}namespaces/{{namespace}}/{plural}"),
        false => all.clone(),
    };
    let (mut list, mut item) = (Map::new(), Map::new());
    list.insert("get".to_owned(), operation("list", false));
    item.insert("get".to_owned(), operation("get", false));
    let mut paths = Map::new();
    paths.insert(all, list.clone().into());
    if kind.reader().is_some() {
        list.insert("post".to_owned(), operation("create", true));
        for (method, action) in [("put", "replace"), ("patch", "patch"), ("delete", "delete")] {
            item.insert(method.to_owned(), operation(action, true));
        }
    }
    paths.insert(format!("{collection}/{{name}}"), item.into());
    paths.insert(collection, list.into());
    paths
}

#[cfg(test)]
mod tests;
