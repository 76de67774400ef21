//! The table is consistent.

use super::*;

#[test]
fn every_kind_has_its_place_and_its_names() {
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind.index(), at, "{kind} is not in the order of the enum");
        assert_eq!(Kind::of_plural(kind.group(), kind.plural()), Some(kind));
        assert_eq!(Kind::named(kind.as_str()), Some(kind));
        assert_eq!(format!("{kind:?}").to_lowercase(), kind.singular());
        assert!(kind.api_version().ends_with(Kind::VERSION));
        assert_eq!(kind.reader().is_some(), kind.role() != Role::Made, "{kind}");
    }
    assert_eq!(Kind::of_plural("", "ingresses"), None);
    assert_eq!(Kind::groups(), ["", "discovery.k8s.io", "networking.k8s.io"]);
}

#[test]
fn what_a_bookmark_holds_is_json() {
    for kind in Kind::ALL {
        let text = format!("{{\"metadata\":{{}}{}}}", kind.empty_fields());
        serde_json::from_str::<Value>(&text).unwrap();
    }
}

#[test]
fn every_column_has_its_cell() {
    for kind in Kind::ALL {
        let cells = kind.cells(&json!({"metadata": {"name": "web"}}), Timestamp::UNIX_EPOCH);
        let columns = kind.column_definitions();
        assert_eq!(cells.as_array().map(Vec::len), columns.as_array().map(Vec::len), "{kind}");
    }
}

#[test]
fn processes_list_only_what_is_in_the_model() {
    for process in [Process::Proxy, Process::Ingress, Process::Dns] {
        let kinds = Kinds::listed_by(process);
        assert!(kinds.contains(Kind::Service) && kinds.contains(Kind::EndpointSlice));
        assert_eq!(kinds.and(Kinds::all()), Kinds::all(), "{process:?}");
    }
}
