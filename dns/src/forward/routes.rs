//! Which upstreams a name is asked of: those of the longest zone of `--forward` that it is in, or
//! else the usual ones.
//!
//! Pure.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::wire::Name;

/// The group of the usual upstreams.
pub(crate) const DEFAULT_GROUP: usize = 0;

/// The zones of `--forward`, each with the number of its group of upstreams.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// By the zone's name in wire form.
    groups: HashMap<Box<[u8]>, usize, RandomState>,
    zones: Vec<(Name, usize)>,
    /// The number of labels of the longest name.
    max_labels: usize,
}

impl Routes {
    /// `zones` are different names, each with its group.
    pub(crate) fn new(zones: impl IntoIterator<Item = (Name, usize)>) -> Routes {
        let mut routes = Routes::default();
        for (name, group) in zones {
            routes.max_labels = routes.max_labels.max(name.labels());
            routes.groups.insert(name.wire().into(), group);
            routes.zones.push((name, group));
        }
        routes
    }

    /// The group whose servers are asked about a name.
    pub(crate) fn group_of(&self, name: &Name) -> usize {
        self.find(name).map_or(DEFAULT_GROUP, |(_, group)| group)
    }

    /// The number of labels of the longest zone that a name is in.
    pub(crate) fn zone_labels(&self, name: &Name) -> Option<usize> {
        self.find(name).map(|(labels, _)| labels)
    }

    /// Whether there is a zone below a name.
    pub(crate) fn has_zone_below(&self, name: &Name) -> bool {
        self.zones.iter().any(|(zone, _)| zone.labels_below(name).is_some_and(|below| below > 0))
    }

    /// Each zone with its group.
    pub(crate) fn zones(&self) -> impl Iterator<Item = (&Name, usize)> {
        self.zones.iter().map(|(zone, group)| (zone, *group))
    }

    fn find(&self, name: &Name) -> Option<(usize, usize)> {
        let most = self.max_labels.min(name.labels());
        (1..=most).rev().find_map(|labels| {
            let suffix = &name.wire()[name.start(name.labels() - labels)..];
            self.groups.get(suffix).map(|group| (labels, *group))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn the_longest_zone_wins() {
        let zones = [("corp", 1), ("lab.corp", 2), ("x.example.com", 3), ("own.corp", 0)];
        let routes = Routes::new(zones.map(|(zone, group)| (name(zone), group)));
        let check = |asked: &str, group: usize, labels: Option<usize>| {
            let found = (routes.group_of(&name(asked)), routes.zone_labels(&name(asked)));
            assert_eq!(found, (group, labels), "{asked}");
        };
        check("corp", 1, Some(1));
        check("CORP", 1, Some(1));
        check("www.corp", 1, Some(1));
        check("lab.corp", 2, Some(2));
        check("a.b.lab.corp", 2, Some(2));
        check("own.corp", 0, Some(2));
        check("notcorp", 0, None);
        check("a-lab.corp", 1, Some(1));
        check("corp.example", 0, None);
        check("example.com", 0, None);
        check("www.x.example.com", 3, Some(3));
        assert_eq!(routes.group_of(&Name::root()), 0);
        assert_eq!(Routes::default().group_of(&name("corp")), 0);
    }

    #[test]
    fn zones_below_a_name() {
        let routes = Routes::new([(name("1.10.in-addr.arpa"), 1)]);
        let check = |asked: &str, expected: bool| {
            assert_eq!(routes.has_zone_below(&name(asked)), expected, "{asked}");
        };
        check("10.in-addr.arpa", true);
        check("1.10.in-addr.arpa", false);
        check("2.1.10.in-addr.arpa", false);
        check("11.in-addr.arpa", false);
    }
}
