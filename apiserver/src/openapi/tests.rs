//! The documents hold together, and have what `kubectl` looks for.

use super::*;

fn parsed(text: &Bytes) -> Value {
    serde_json::from_slice(text).unwrap()
}

/// Every `$ref` in a value.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(array) => array.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let documents = Kind::groups().into_iter().map(|group| v3_document(group).unwrap());
    for document in documents.chain([v2_json()]) {
        let document = parsed(&document);
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 3);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}

/// Without it `kubectl` finds no schema for an object, and no path that could be patched.
#[test]
fn every_kind_is_named_by_its_schema_and_its_paths() {
    let two = parsed(&v2_json());
    for kind in Kind::ALL {
        let three = parsed(&v3_document(kind.group()).unwrap());
        let name = format!("{}.{}", package(kind), kind.as_str());
        for schema in [&two["definitions"][&name], &three["components"]["schemas"][&name]] {
            assert_eq!(schema["x-kubernetes-group-version-kind"], json!([names(kind)]), "{kind}");
            assert!(schema["properties"]["metadata"].is_object(), "{kind}");
        }
        let get = &three["paths"][&kind.collection_path()]["get"];
        assert_eq!(get["x-kubernetes-group-version-kind"], names(kind), "{kind}");
        let paths = three["paths"].as_object().unwrap().values();
        let patched = paths.map(|path| &path["patch"]).find(|patch| {
            patch["x-kubernetes-group-version-kind"] == names(kind)
                && patch["parameters"][0]["name"] == "dryRun"
        });
        assert_eq!(patched.is_some(), kind.reader().is_some(), "{kind}");
    }
}

#[test]
fn the_index_names_every_group() {
    let index = parsed(&v3_index());
    let paths = index["paths"].as_object().unwrap();
    let names: Vec<_> = paths.keys().collect();
    assert_eq!(names, ["api/v1", "apis/discovery.k8s.io/v1", "apis/networking.k8s.io/v1"]);
    let url = paths["api/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/api/v1?hash="), "{url}");
    assert!(v3_document("apps").is_none());
}

/// A client that merges lists as the schema says loses no port.
#[test]
fn lists_say_how_they_are_merged() {
    let two = parsed(&v2_json());
    let ports = &two["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    assert_eq!(ports["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.ServicePort");
}

/// A dump of a Pod has fields that are not listed: a client must not refuse them.
#[test]
fn types_that_grow_are_open() {
    let name = "io.k8s.api.core.v1.PodSpec";
    assert!(parsed(&v2_json())["definitions"][name].get("properties").is_none());
    let three = parsed(&v3_document("").unwrap());
    let spec = &three["components"]["schemas"][name];
    assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
    assert!(spec["properties"]["nodeName"]["description"].is_string());
}

/// Reads the fields of a message: number and bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        assert_eq!(tag & 7, 2, "only fields with a length are written");
        let length = varint(&mut bytes) as usize;
        let (field, rest) = bytes.split_at(length);
        found.push((tag >> 3, field));
        bytes = rest;
    }
    found
}

#[track_caller]
fn only(message: &[u8], number: u64) -> &[u8] {
    let mut of_number = fields(message).into_iter().filter(|(field, _)| *field == number);
    let (_, bytes) = of_number.next().unwrap();
    assert!(of_number.next().is_none());
    bytes
}

#[test]
fn the_protobuf_has_the_definitions_of_the_json() {
    let text = v2_protobuf();
    assert_eq!(only(&text, 1), b"2.0");
    let definitions = fields(only(&text, 9));
    let json = parsed(&v2_json());
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    let (_, port) = definitions
        .into_iter()
        .find(|(_, named)| only(named, 1) == b"io.k8s.api.core.v1.ServicePort")
        .unwrap();
    let schema = only(port, 2);
    assert_eq!(only(only(schema, 22), 1), b"object");
    let properties = fields(only(schema, 25));
    assert_eq!(properties.len(), 6);
    let (_, target) =
        properties.into_iter().find(|(_, named)| only(named, 1) == b"targetPort").unwrap();
    let reference = format!("#/definitions/{INT_OR_STRING}");
    assert_eq!(only(only(target, 2), 1), reference.as_bytes());
}
