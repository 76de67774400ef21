//! The fields of a kind and their types, derived from the types that its objects are decoded into.
//!
//! Pure. A [`Tracer`] is a deserializer without data: it records what each field requests from it,
//! so the published fields of a kind are always those that are parsed. Fields of Kubernetes that
//! are only kept come from [`crate::schema`]. Left out: descriptions ([`crate::describe`]), and the
//! format in which this is published.

use serde::de::value::Error;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::schema::{self, Unused};

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    Text,
    Integer,
    Boolean,
    /// A port by number or by name.
    IntOrText,
    /// A mapping from strings to strings.
    TextMap,
    /// An object with any content.
    Any,
    List(Box<Shape>),
    Object(Structure),
}

/// The fields of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Structure {
    /// The name of the type in [`crate::object`].
    pub name: &'static str,
    pub fields: Vec<Field>,
    /// Whether other fields are kept too.
    pub is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    /// Whether it is decoded. Other fields are only served as written.
    pub is_used: bool,
    /// For a list of objects: the fields that identify its elements when a patch is merged into it.
    /// The first one is the key of a strategic merge patch. Empty: the list is replaced as a whole.
    pub keys: &'static [&'static str],
}

impl Structure {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// The shape of a type: all decoded fields, and the other fields of Kubernetes.
pub(crate) fn of<T: Deserialize<'static>>() -> Shape {
    let mut shape = None;
    // The result of decoding the sample values does not matter.
    let _ = T::deserialize(Tracer(&mut shape));
    shape.unwrap_or(Shape::Any)
}

/// The fields that identify the elements of a list, as in Kubernetes.
fn keys_of(type_name: &str, field: &str) -> &'static [&'static str] {
    match (type_name, field) {
        ("ServiceSpec", "ports") => &["port", "protocol"],
        ("PodSpec", "containers" | "initContainers") => &["name"],
        ("Container", "ports") => &["containerPort", "protocol"],
        ("PodStatus", "podIPs") => &["ip"],
        ("PodStatus" | "ServiceStatus", "conditions") | ("NodeStatus", "addresses") => &["type"],
        ("Meta", "ownerReferences") => &["uid"],
        _ => &[],
    }
}

fn structure(name: &'static str, used: Vec<(&'static str, Shape)>) -> Structure {
    let used = used.into_iter().map(|(name, shape)| (name, shape, true));
    let unused = schema::unused(name).iter().map(|(name, unused)| (*name, kept(*unused), false));
    let mut fields: Vec<_> = used
        .chain(unused)
        .map(|(field, shape, is_used)| Field {
            name: field,
            shape,
            is_used,
            keys: keys_of(name, field),
        })
        .collect();
    fields.sort_by_key(|field| field.name);
    Structure { name, fields, is_open: schema::grows(name) }
}

fn kept(unused: Unused) -> Shape {
    match unused {
        Unused::Text => Shape::Text,
        Unused::Integer => Shape::Integer,
        Unused::Boolean => Shape::Boolean,
        Unused::Object => Shape::Any,
        Unused::Texts => Shape::List(Box::new(Shape::Text)),
        Unused::Objects => Shape::List(Box::new(Shape::Any)),
    }
}

/// Records what is requested from it.
struct Tracer<'s>(&'s mut Option<Shape>);

impl Deserializer<'static> for Tracer<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::IntOrText);
        visitor.visit_i64(0)
    }

    fn deserialize_bool<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::Boolean);
        visitor.visit_bool(false)
    }

    fn deserialize_i64<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::Integer);
        visitor.visit_i64(0)
    }

    fn deserialize_str<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::Text);
        visitor.visit_borrowed_str("")
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut element = None;
        let value = visitor.visit_seq(One(Some(&mut element)))?;
        *self.0 = Some(Shape::List(Box::new(element.unwrap_or(Shape::Any))));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::TextMap);
        visitor.visit_map(Fields { names: [].iter(), shapes: &mut Vec::new() })
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut shapes = Vec::new();
        let value = visitor.visit_map(Fields { names: fields.iter(), shapes: &mut shapes })?;
        let traced = fields.iter().copied().zip(shapes).collect();
        *self.0 = Some(Shape::Object(structure(name, traced)));
        Ok(value)
    }

    fn deserialize_ignored_any<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.0 = Some(Shape::Any);
        visitor.visit_unit()
    }

    // The types of objects request nothing else: a test reads every published field.
    serde::forward_to_deserialize_any! {
        <W: Visitor<'static>>
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum identifier
    }
}

/// A sequence of one element.
struct One<'s>(Option<&'s mut Option<Shape>>);

impl SeqAccess<'static> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'static>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|shape| seed.deserialize(Tracer(shape))).transpose()
    }
}

/// A mapping with every field of a type.
struct Fields<'s> {
    names: std::slice::Iter<'static, &'static str>,
    shapes: &'s mut Vec<Shape>,
}

impl MapAccess<'static> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'static>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.names.next() else { return Ok(None) };
        seed.deserialize(de::value::BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'static>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut shape = None;
        let value = seed.deserialize(Tracer(&mut shape))?;
        self.shapes.push(shape.unwrap_or(Shape::Any));
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
