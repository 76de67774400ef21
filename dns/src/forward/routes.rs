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
    /// The number of each zone, by its name in wire form.
    numbers: HashMap<Box<[u8]>, usize, RandomState>,
    zones: Vec<(Name, usize)>,
    /// The number of labels of the longest name.
    max_labels: usize,
}

/// Where a name is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The number of its zone, in the order of `--forward`, if it has one.
    pub(crate) zone: Option<usize>,
    pub(crate) group: usize,
}

impl Routes {
    /// `zones` are different names, each with its group.
    pub(crate) fn new(zones: impl IntoIterator<Item = (Name, usize)>) -> Routes {
        let mut routes = Routes::default();
        for (name, group) in zones {
            routes.max_labels = routes.max_labels.max(name.labels());
            routes.numbers.insert(name.wire().into(), routes.zones.len());
            routes.zones.push((name, group));
        }
        routes
    }

    /// Where a name is asked.
    #[inline]
    pub(crate) fn route(&self, name: &Name) -> Route {
        let zone = self.find(name).map(|(_, number)| number);
        Route { zone, group: zone.map_or(DEFAULT_GROUP, |number| self.zones[number].1) }
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

    /// The longest zone that a name is in: the number of its labels, and its own.
    fn find(&self, name: &Name) -> Option<(usize, usize)> {
        let most = self.max_labels.min(name.labels());
        (1..=most).rev().find_map(|labels| {
            let suffix = &name.wire()[name.start(name.labels() - labels)..];
            self.numbers.get(suffix).map(|number| (labels, *number))
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
            let found = (routes.route(&name(asked)).group, routes.zone_labels(&name(asked)));
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
        let usual = Route { zone: None, group: 0 };
        assert_eq!(routes.route(&Name::root()), usual);
        assert_eq!(Routes::default().route(&name("corp")), usual);
        assert_eq!(routes.route(&name("a.own.corp")), Route { zone: Some(3), group: 0 });
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
