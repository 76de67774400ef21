//! What a batch changed, in one line for the log: `web.yaml: 1 Ingress changed`.

use std::collections::BTreeMap;

use model::ObjectKey;
use model::store::Event;

use crate::path::FilePath;

/// Files that a line names; of a batch with more it says how many.
const MAX_NAMED: usize = 4;

/// Objects that changed, by file, and that were deleted; then by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    changed: BTreeMap<String, BTreeMap<&'static str, usize>>,
    deleted: BTreeMap<&'static str, usize>,
}

impl Summary {
    /// Of a batch's events; `file_of` says which file has an object now.
    pub(super) fn of<'c>(
        events: &[Event],
        file_of: impl Fn(&ObjectKey) -> Option<&'c FilePath>,
    ) -> Summary {
        let mut summary = Summary::default();
        for event in events {
            match event {
                Event::Apply(record) => {
                    let key = record.key();
                    let name = file_of(&key).and_then(|path| path.file_name());
                    let name = name.map(|name| name.to_string_lossy().into_owned());
                    let kinds = summary.changed.entry(name.unwrap_or_default()).or_default();
                    *kinds.entry(key.kind.as_str()).or_default() += 1;
                }
                Event::Delete(key) => {
                    *summary.deleted.entry(key.kind.as_str()).or_default() += 1;
                }
                _ => {}
            }
        }
        summary
    }

    /// One line; `None` if nothing changed.
    pub(super) fn line(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.changed.len() > MAX_NAMED {
            let mut kinds = BTreeMap::new();
            for (kind, count) in self.changed.values().flatten() {
                *kinds.entry(*kind).or_default() += count;
            }
            parts.push(format!("{} files: {} changed", self.changed.len(), counted(&kinds)));
        } else {
            let files = self.changed.iter();
            parts.extend(files.map(|(file, kinds)| format!("{file}: {} changed", counted(kinds))));
        }
        if !self.deleted.is_empty() {
            parts.push(format!("{} deleted", counted(&self.deleted)));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// `1 Ingress, 2 Services`.
fn counted(kinds: &BTreeMap<&'static str, usize>) -> String {
    let words = kinds.iter().map(|(kind, count)| {
        let plural = match (*count, kind.ends_with('s')) {
            (1, _) => "",
            (_, true) => "es",
            (_, false) => "s",
        };
        format!("{count} {kind}{plural}")
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_files_kinds_and_what_was_deleted() {
        let kinds = |kinds: &[(&'static str, usize)]| kinds.iter().copied().collect();
        let file = |name: &str, of: &[(&'static str, usize)]| (name.to_owned(), kinds(of));
        let many = (0..5).map(|n| file(&format!("{n}.yaml"), &[("Service", 2)])).collect();
        let one = BTreeMap::from([file("web.yaml", &[("Ingress", 1), ("Service", 2)])]);
        let table = [
            (BTreeMap::new(), kinds(&[]), None),
            (one, kinds(&[]), Some("web.yaml: 1 Ingress, 2 Services changed")),
            (BTreeMap::new(), kinds(&[("Ingress", 2)]), Some("2 Ingresses deleted")),
            (many, kinds(&[("Pod", 1)]), Some("5 files: 10 Services changed; 1 Pod deleted")),
        ];
        for (changed, deleted, expected) in table {
            let summary = Summary { changed, deleted };
            assert_eq!(summary.line().as_deref(), expected);
        }
    }
}
