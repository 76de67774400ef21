//! Kubernetes objects as Kubernetes spells them, cut to the fields that are used.
//!
//! Lenient on purpose: every field may be absent or null and unknown ones are ignored, because
//! these types read an API's answers too. The stricter rules for folders are in
//! [`crate::tree::decode`] and [`crate::schema`]; the meaning of values is in [`crate::validate`].

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A string, borrowed from the text it was read from where that is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A map from strings to strings, in the order of the text.
#[derive(Clone, Debug, Default)]
pub struct TextMap<'a>(pub Vec<(Text<'a>, Text<'a>)>);

impl TextMap<'_> {
    /// The value of a key; for a duplicate key, the last one.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(k, _)| **k == *key).map(|(_, value)| &**value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for TextMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextMap<'a>, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = TextMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from strings to strings")
            }

            fn visit_unit<E>(self) -> Result<TextMap<'de>, E> {
                Ok(TextMap::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TextMap<'de>, A::Error> {
                let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some((key, value)) = map.next_entry::<Text<'de>, Option<Text<'de>>>()? {
                    spend::<(Text<'_>, Text<'_>), A::Error>()?;
                    entries.push((key, value.unwrap_or_default()));
                }
                Ok(TextMap(entries))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}

/// A sequence. For objects from outside, its size is limited with [`within`].
#[derive(Clone, Debug, Default)]
pub struct List<T>(Vec<T>);

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        struct ListVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<List<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = sequence.next_element()? {
                    spend::<T, A::Error>()?;
                    elements.push(element);
                }
                Ok(List(elements))
            }
        }
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

thread_local! {
    /// The bytes that the elements of the object that is being decoded may still take.
    static ROOM: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Decodes one object whose sequences and mappings together may take this many bytes; more is an
/// error. Three bytes of JSON, `{},`, become an endpoint of hundreds of bytes, so a limit of the
/// text's length alone does not limit the memory.
pub fn within<R>(room: usize, decode: impl FnOnce() -> R) -> R {
    let before = ROOM.replace(room);
    let decoded = decode();
    ROOM.set(before);
    decoded
}

/// Reserves the memory of one element.
fn spend<T, E: de::Error>() -> Result<(), E> {
    let room = ROOM.get().checked_sub(size_of::<T>());
    let room = room.ok_or_else(|| E::custom("more elements than any object of the API has"))?;
    ROOM.set(room);
    Ok(())
}

/// A port by number or by name.
#[derive(Clone, Debug)]
pub enum IntOrText<'a> {
    Int(i64),
    Text(Text<'a>),
}

impl<'de: 'a, 'a> Deserialize<'de> for IntOrText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntOrText<'a>, D::Error> {
        struct EitherVisitor;
        impl<'de> Visitor<'de> for EitherVisitor {
            type Value = IntOrText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a string")
            }

            fn visit_i64<E>(self, value: i64) -> Result<IntOrText<'de>, E> {
                Ok(IntOrText::Int(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<IntOrText<'de>, E> {
                i64::try_from(value).map(IntOrText::Int).map_err(E::custom)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<IntOrText<'de>, E> {
                Ok(IntOrText::Text(Text(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<IntOrText<'de>, E> {
                Ok(IntOrText::Text(Text(Cow::Owned(text.to_owned()))))
            }
        }
        deserializer.deserialize_any(EitherVisitor)
    }
}

/// Defines object types: every field optional, spelled in camelCase, borrowing from the text.
macro_rules! objects {
    ($vis:vis, $life:lifetime $(
        $(#[$note:meta])*
        struct $name:ident { $($(#[$hint:meta])* $field:ident: $type:ty,)* }
    )*) => {$(
        $(#[$note])*
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(rename_all = "camelCase", bound(deserialize = "'de: 'a"), default)]
        $vis struct $name<$life> {
            $($(#[$hint])* $vis $field: Option<$type>,)*
        }
    )*};
}

pub(crate) use objects;

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<i64>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

objects! { pub, 'a
    struct Meta {
        name: Text<'a>,
        namespace: Text<'a>,
        labels: TextMap<'a>,
        annotations: TextMap<'a>,
        creation_timestamp: Text<'a>,
        deletion_timestamp: Text<'a>,
    }

    struct Service {
        metadata: Meta<'a>,
        spec: ServiceSpec<'a>,
        status: ServiceStatus<'a>,
    }
    struct ServiceSpec {
        #[serde(rename = "type")]
        service_type: Text<'a>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Text<'a>,
        #[serde(rename = "clusterIPs")]
        cluster_ips: List<Text<'a>>,
        #[serde(rename = "externalIPs")]
        external_ips: List<Text<'a>>,
        external_name: Text<'a>,
        ports: List<ServicePort<'a>>,
        selector: TextMap<'a>,
        publish_not_ready_addresses: bool,
        session_affinity: Text<'a>,
        session_affinity_config: SessionAffinityConfig,
        internal_traffic_policy: Text<'a>,
        external_traffic_policy: Text<'a>,
        load_balancer_source_ranges: List<Text<'a>>,
        load_balancer_class: Text<'a>,
        health_check_node_port: i64,
        traffic_distribution: Text<'a>,
        ip_families: List<Text<'a>>,
        ip_family_policy: Text<'a>,
    }
    struct ServicePort {
        name: Text<'a>,
        protocol: Text<'a>,
        app_protocol: Text<'a>,
        port: i64,
        target_port: IntOrText<'a>,
        node_port: i64,
    }
    struct ServiceStatus {
        load_balancer: LoadBalancerStatus<'a>,
    }
    struct LoadBalancerStatus {
        ingress: List<LoadBalancerIngress<'a>>,
    }
    struct LoadBalancerIngress {
        ip: Text<'a>,
        ip_mode: Text<'a>,
    }

    struct EndpointSlice {
        metadata: Meta<'a>,
        address_type: Text<'a>,
        endpoints: List<Endpoint<'a>>,
        ports: List<EndpointPort<'a>>,
    }
    struct Endpoint {
        addresses: List<Text<'a>>,
        conditions: EndpointConditions,
        hostname: Text<'a>,
        node_name: Text<'a>,
        zone: Text<'a>,
        hints: EndpointHints<'a>,
    }
    struct EndpointHints {
        for_zones: List<Named<'a>>,
        for_nodes: List<Named<'a>>,
    }
    /// A `ForZone` or a `ForNode`.
    struct Named {
        name: Text<'a>,
    }
    /// A port of an EndpointSlice or of an Endpoints subset.
    struct EndpointPort {
        name: Text<'a>,
        protocol: Text<'a>,
        port: i64,
        app_protocol: Text<'a>,
    }

    struct Endpoints {
        metadata: Meta<'a>,
        subsets: List<EndpointSubset<'a>>,
    }
    struct EndpointSubset {
        addresses: List<EndpointAddress<'a>>,
        not_ready_addresses: List<EndpointAddress<'a>>,
        ports: List<EndpointPort<'a>>,
    }
    struct EndpointAddress {
        ip: Text<'a>,
        hostname: Text<'a>,
        node_name: Text<'a>,
    }

    struct Pod {
        metadata: Meta<'a>,
        spec: PodSpec<'a>,
        status: PodStatus<'a>,
    }
    struct PodSpec {
        node_name: Text<'a>,
        hostname: Text<'a>,
        subdomain: Text<'a>,
        containers: List<Container<'a>>,
        init_containers: List<Container<'a>>,
    }
    struct Container {
        name: Text<'a>,
        ports: List<ContainerPort<'a>>,
        restart_policy: Text<'a>,
    }
    struct ContainerPort {
        name: Text<'a>,
        container_port: i64,
        protocol: Text<'a>,
    }
    struct PodStatus {
        phase: Text<'a>,
        #[serde(rename = "podIP")]
        pod_ip: Text<'a>,
        #[serde(rename = "podIPs")]
        pod_ips: List<PodIp<'a>>,
        conditions: List<Condition<'a>>,
    }
    struct PodIp {
        ip: Text<'a>,
    }
    struct Condition {
        #[serde(rename = "type")]
        condition_type: Text<'a>,
        status: Text<'a>,
    }

    struct Ingress {
        metadata: Meta<'a>,
        spec: IngressSpec<'a>,
    }
    struct IngressSpec {
        ingress_class_name: Text<'a>,
        default_backend: IngressBackend<'a>,
        rules: List<IngressRule<'a>>,
        tls: List<IngressTls<'a>>,
    }
    struct IngressRule {
        host: Text<'a>,
        http: HttpIngressRuleValue<'a>,
    }
    struct HttpIngressRuleValue {
        paths: List<HttpIngressPath<'a>>,
    }
    struct HttpIngressPath {
        path: Text<'a>,
        path_type: Text<'a>,
        backend: IngressBackend<'a>,
    }
    struct IngressBackend {
        service: IngressServiceBackend<'a>,
        resource: TypedLocalObjectReference<'a>,
    }
    struct IngressServiceBackend {
        name: Text<'a>,
        port: ServiceBackendPort<'a>,
    }
    struct ServiceBackendPort {
        name: Text<'a>,
        number: i64,
    }
    struct TypedLocalObjectReference {
        kind: Text<'a>,
        name: Text<'a>,
    }
    struct IngressTls {
        hosts: List<Text<'a>>,
        secret_name: Text<'a>,
    }

    struct IngressClass {
        metadata: Meta<'a>,
        spec: IngressClassSpec<'a>,
    }
    struct IngressClassSpec {
        controller: Text<'a>,
        parameters: IngressClassParametersReference<'a>,
    }
    struct IngressClassParametersReference {
        api_group: Text<'a>,
        kind: Text<'a>,
        name: Text<'a>,
        namespace: Text<'a>,
        scope: Text<'a>,
    }

    struct Secret {
        metadata: Meta<'a>,
        #[serde(rename = "type")]
        secret_type: Text<'a>,
        data: TextMap<'a>,
        string_data: TextMap<'a>,
    }

    struct Namespace {
        metadata: Meta<'a>,
    }

    struct Node {
        metadata: Meta<'a>,
        status: NodeStatus<'a>,
    }
    struct NodeStatus {
        addresses: List<NodeAddress<'a>>,
    }
    struct NodeAddress {
        #[serde(rename = "type")]
        address_type: Text<'a>,
        address: Text<'a>,
    }
}
