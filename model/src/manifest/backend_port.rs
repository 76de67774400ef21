//! What to write instead of an Ingress's backend port whose value has the wrong type.
//!
//! A port is `{number: 80}` or `{name: http}`; the value shows which of them its author meant.

use crate::tree::{NodeId, Step, Tree};
use crate::validate::format;

/// `None` unless the field is a backend's port and its value could be one.
pub(super) fn instead(tree: &Tree<'_>, node: NodeId, path: &[Step]) -> Option<String> {
    let is = |step: &Step, name: &str| matches!(step, Step::Key(key) if key == name);
    let above = match path {
        [above @ .., last] if is(last, "name") || is(last, "number") => above,
        _ => path,
    };
    let [.., service, port] = above else { return None };
    let value = tree.scalar(node).filter(|_| is(service, "service") && is(port, "port"))?;
    let number = value.parse::<u16>().map(|number| format!("write port: {{number: {number}}}"));
    let name =
        || format::port_name(value).is_ok().then(|| format!("write port: {{name: {value}}}"));
    number.ok().or_else(name)
}
