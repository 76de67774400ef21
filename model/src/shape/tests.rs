//! The published fields of a kind are those that are parsed, and every field has a description.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::describe;
use crate::document::{self, Format};
use crate::manifest::{self, Keep};
use crate::name::Kind;
use crate::validate::Interner;

/// All structures of a kind, including nested ones.
fn structures(kind: Kind) -> Vec<Structure> {
    fn collect(shape: &Shape, into: &mut Vec<Structure>) {
        match shape {
            Shape::List(element) => collect(element, into),
            Shape::Object(structure) => {
                into.push(structure.clone());
                structure.fields.iter().for_each(|field| collect(&field.shape, into));
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    collect(&Shape::Object(kind.structure()), &mut all);
    all
}

/// A value of this shape with every field, and an additional field in each object.
fn sample(shape: &Shape, typo: &str, typos: &mut usize) -> Value {
    match shape {
        Shape::Text => "".into(),
        Shape::Integer | Shape::IntOrText => 1.into(),
        Shape::Boolean => true.into(),
        Shape::TextMap | Shape::Any => json!({}),
        Shape::List(element) => json!([sample(element, typo, typos)]),
        Shape::Object(structure) => {
            let fields = structure.fields.iter();
            let value = |field: &Field, typos: &mut usize| {
                (field.name.to_owned(), sample(&field.shape, typo, typos))
            };
            let mut object: serde_json::Map<_, _> = fields.map(|f| value(f, typos)).collect();
            if !structure.is_open && !typo.is_empty() {
                object.insert(typo.to_owned(), 1.into());
                *typos += 1;
            }
            object.into()
        }
    }
}

fn unknown_fields(kind: Kind, typo: &str) -> (usize, usize) {
    let mut typos = 0;
    let mut object = sample(&Shape::Object(kind.structure()), typo, &mut typos);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.as_str().into();
    let text = object.to_string();
    let document = document::split(&text, Format::Json)[0];
    let mut interner = Interner::default();
    let readings = manifest::read(&text, &document, Format::Json, Keep::Parts, &mut interner);
    let problems = readings.iter().flat_map(|reading| &reading.problems);
    (problems.filter(|p| p.message.starts_with("unknown field")).count(), typos)
}

/// `kubectl` refuses fields that are not in the schema, and the folder refuses fields that the
/// parser does not know.
#[test]
fn the_parser_knows_every_published_field_and_no_other() {
    for kind in Kind::read() {
        assert_eq!(unknown_fields(kind, "").0, 0, "{kind}: the parser does not know all");
        let (found, typos) = unknown_fields(kind, "zzzzzzzzzz");
        const SHOWN: usize = 20;
        assert!(typos > 1 && found == typos.min(SHOWN), "{kind}: {found} of {typos}");
        for structure in structures(kind) {
            for field in structure.fields.iter().filter(|field| !field.is_used) {
                let names: Vec<_> = structure.fields.iter().map(|field| field.name).collect();
                assert_eq!(names.iter().filter(|name| **name == field.name).count(), 1);
            }
        }
    }
}

#[test]
fn every_field_that_is_used_has_a_sentence_and_every_sentence_a_field() {
    let (mut described, mut there) = (BTreeSet::new(), BTreeSet::new());
    for structure in Kind::ALL.into_iter().flat_map(structures) {
        assert_ne!(describe::about(structure.name), "", "{}", structure.name);
        described.insert(structure.name);
        for field in structure.fields.iter().filter(|field| field.is_used) {
            let text = describe::field(structure.name, field.name);
            assert!(text.ends_with('.'), "{}.{}: {text:?}", structure.name, field.name);
            there.insert((structure.name, field.name));
        }
    }
    for (name, field) in describe::all() {
        assert!(described.contains(name), "{name} is the name of no type");
        assert!(there.contains(&(name, field)), "{name} has no field {field}");
    }
}

#[test]
fn shapes_are_those_of_the_api() {
    let Shape::Object(spec) = &Kind::Service.structure().field("spec").unwrap().shape.clone()
    else {
        panic!("no object")
    };
    let shape = |name| &spec.field(name).unwrap().shape;
    assert_eq!(*shape("clusterIP"), Shape::Text);
    assert_eq!(*shape("clusterIPs"), Shape::List(Box::new(Shape::Text)));
    assert_eq!(*shape("publishNotReadyAddresses"), Shape::Boolean);
    assert_eq!(*shape("selector"), Shape::TextMap);
    assert!(!spec.field("allocateLoadBalancerNodePorts").unwrap().is_used);
    let ports = spec.field("ports").unwrap();
    assert_eq!(ports.keys, ["port", "protocol"]);
    let Shape::List(port) = &ports.shape else { panic!("{ports:?}") };
    let Shape::Object(port) = &**port else { panic!("{port:?}") };
    assert_eq!(port.field("targetPort").unwrap().shape, Shape::IntOrText);
    assert_eq!(port.field("port").unwrap().shape, Shape::Integer);
}

/// A key that identifies elements is one of their fields.
#[test]
fn keys_of_lists_are_fields_of_their_elements() {
    for structure in Kind::ALL.into_iter().flat_map(structures) {
        for field in structure.fields.iter().filter(|field| !field.keys.is_empty()) {
            let Shape::List(element) = &field.shape else { panic!("{field:?}") };
            if let Shape::Object(element) = &**element {
                let known = field.keys.iter().all(|key| element.field(key).is_some());
                assert!(known, "{}.{}", structure.name, field.name);
            }
        }
    }
}
