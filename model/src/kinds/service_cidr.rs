//! networking.k8s.io/v1 ServiceCIDR: the ranges that Services have addresses of.
//!
//! Stored and served only: an unmodified kube-proxy follows it to know which addresses belong to
//! Services and not to endpoints.

use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::defaults;
use crate::entry::{Entry, PLAIN, Role};
use crate::name::{Kind, ObjectKey};
use crate::object::{List, Meta, Text, objects};
use crate::reader::reader;
use crate::record::Record;
use crate::shape;
use crate::table::{self, Row};
use crate::validate::{Check, ROOT, accept, format};

pub(super) const ENTRY: Entry = Entry {
    kind: Kind::ServiceCidr,
    name: "ServiceCIDR",
    api_version: "networking.k8s.io/v1",
    plural: "servicecidrs",
    singular: "servicecidr",
    namespaced: false,
    role: Role::Served,
    reader: reader!(ServiceCidr, validate),
    shape: shape::of::<ServiceCidr<'static>>,
    complete,
    empty: r#","spec":{},"status":{}"#,
    columns: &["Name", "CIDRs", "Age"],
    cells,
    ..PLAIN
};

objects! { pub(super), 'a
    struct ServiceCidr {
        api_version: IgnoredAny,
        kind: IgnoredAny,
        metadata: Meta<'a>,
        spec: ServiceCidrSpec<'a>,
        status: IgnoredAny,
    }
    struct ServiceCidrSpec {
        cidrs: List<Text<'a>>,
    }
}

/// One range for each family.
const MOST: usize = 2;

fn validate(object: &ServiceCidr<'_>, check: &mut Check<'_>) -> Option<Record> {
    let kind = Kind::ServiceCidr;
    let name = check.name(object.metadata.as_ref(), kind, format::dns_subdomain);
    let spec = ROOT.key("spec");
    let at = spec.key("cidrs");
    let cidrs = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    if cidrs.is_empty() {
        check.required(at, "at least one CIDR required");
    }
    if cidrs.len() > MOST {
        check.invalid(at, cidrs.len(), "may only hold up to 2 values");
    }
    let mut nets = Vec::new();
    for (i, text) in cidrs.iter().enumerate() {
        match format::cidr(text) {
            Some(net) => nets.push(net),
            None => check.invalid(at.index(i), &**text, format::CIDR_RULE),
        }
    }
    if let [a, b] = nets[..]
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and \
            2001:db8::/96";
        check.invalid(at, [&*cidrs[0], &*cidrs[1]], why);
    }
    accept(check, || Record::NameOnly(Arc::new(ObjectKey { kind, name })))
}

fn complete(object: &mut defaults::Object) {
    for field in ["spec", "status"] {
        object.entry(field).or_insert_with(|| json!({}));
    }
}

fn cells(row: Row<'_>) -> Value {
    let cidrs = row.object.texts("/spec/cidrs");
    json!([row.name(), table::join(cidrs, ",", table::NONE), row.age()])
}

#[cfg(test)]
mod tests {
    use crate::document::{self, Format};
    use crate::manifest::{self, Keep, Outcome};
    use crate::validate::Interner;

    #[track_caller]
    fn problems(spec: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{name: kubernetes}}\n\
             spec: {spec}\nstatus: {{conditions: [{{type: Ready, status: \"True\"}}]}}\n"
        );
        let document = document::split(&text, Format::Yaml)[0];
        let mut interner = Interner::default();
        let readings = manifest::read(&text, &document, Format::Yaml, Keep::Whole, &mut interner);
        let [reading] = &readings[..] else { panic!("{readings:?}") };
        let good = matches!(reading.outcome, Outcome::Good(_));
        assert_eq!(good, reading.problems.is_empty(), "{spec}");
        assert_eq!(good, reading.whole.is_some(), "{spec}");
        assert_eq!(reading.key.as_ref().unwrap().to_string(), "ServiceCIDR kubernetes");
        reading.problems.iter().map(|problem| problem.message.clone()).collect()
    }

    #[test]
    fn ranges_are_one_of_each_family() {
        assert!(problems("{cidrs: [10.96.0.0/16]}").is_empty());
        assert!(problems("{cidrs: [10.96.0.0/16, \"fd00::/112\"]}").is_empty());
        for (spec, part) in [
            ("{}", "spec.cidrs: Required value"),
            ("{cidrs: [10.96.0.0/16, 10.97.0.0/16]}", "no more than one IP for each IP family"),
            ("{cidrs: [10.96.0.0]}", "spec.cidrs[0]: Invalid value: \"10.96.0.0\""),
            ("{cidrs: [10.0.0.0/8, \"fd00::/112\", \"fd01::/112\"]}", "up to 2 values"),
            ("{cidr: [10.0.0.0/8]}", "unknown field \"spec.cidr\""),
        ] {
            let found = problems(spec);
            assert!(found[0].contains(part), "{spec}: {found:?}");
        }
    }
}
