//! Which entries leave when there is no more room: SIEVE (Zhang et al., NSDI 2024).
//!
//! Entries stand in the order in which they came. A hand goes from the oldest to the newest; an
//! entry that was used since the hand last passed is spared once, the first other one leaves. So
//! names that are asked once leave soon, however many of them there are, and names in use stay.
//!
//! Pure.

/// The number of an entry.
pub(crate) type Id = u32;
const NONE: Id = Id::MAX;

/// Values in the order in which they came.
#[derive(Debug)]
pub(crate) struct Sieve<T> {
    nodes: Vec<Option<Node<T>>>,
    free: Vec<Id>,
    newest: Id,
    oldest: Id,
    hand: Id,
}

#[derive(Debug)]
struct Node<T> {
    value: T,
    newer: Id,
    older: Id,
    used: bool,
}

impl<T> Default for Sieve<T> {
    fn default() -> Sieve<T> {
        Sieve { nodes: Vec::new(), free: Vec::new(), newest: NONE, oldest: NONE, hand: NONE }
    }
}

impl<T> Sieve<T> {
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Adds a value, as the newest.
    pub(crate) fn insert(&mut self, value: T) -> Id {
        let node = Node { value, newer: NONE, older: self.newest, used: false };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.nodes.push(None);
                (self.nodes.len() - 1) as Id
            }
        };
        self.nodes[id as usize] = Some(node);
        match self.newest {
            NONE => self.oldest = id,
            newest => self.node_mut(newest).newer = id,
        }
        self.newest = id;
        id
    }

    /// A value, which counts as used.
    #[inline]
    pub(crate) fn touch(&mut self, id: Id) -> &mut T {
        let node = self.node_mut(id);
        node.used = true;
        &mut node.value
    }

    pub(crate) fn get(&self, id: Id) -> &T {
        &self.node(id).value
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut T {
        &mut self.node_mut(id).value
    }

    /// Removes the entry whose turn it is.
    pub(crate) fn evict(&mut self) -> Option<T> {
        // Each step clears a mark, so the second round finds one at the latest.
        loop {
            if self.hand == NONE {
                self.hand = self.oldest;
            }
            let id = self.hand;
            if id == NONE {
                return None;
            }
            let node = self.node_mut(id);
            if std::mem::take(&mut node.used) {
                self.hand = node.newer;
                continue;
            }
            return Some(self.remove(id));
        }
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, id: Id) -> T {
        let node = self.nodes[id as usize].take().expect("an entry that is in");
        self.free.push(id);
        match node.newer {
            NONE => self.newest = node.older,
            newer => self.node_mut(newer).older = node.older,
        }
        match node.older {
            NONE => self.oldest = node.newer,
            older => self.node_mut(older).newer = node.newer,
        }
        if self.hand == id {
            self.hand = node.newer;
        }
        node.value
    }

    fn node(&self, id: Id) -> &Node<T> {
        self.nodes[id as usize].as_ref().expect("an entry that is in")
    }

    fn node_mut(&mut self, id: Id) -> &mut Node<T> {
        self.nodes[id as usize].as_mut().expect("an entry that is in")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_in_use_stay() {
        let mut sieve = Sieve::default();
        let ids: Vec<Id> = (0..4).map(|n| sieve.insert(n)).collect();
        sieve.touch(ids[0]);
        sieve.touch(ids[2]);
        assert_eq!(sieve.evict(), Some(1));
        assert_eq!(sieve.evict(), Some(3));
        // The hand has passed all and begins anew; the marks are gone.
        assert_eq!(sieve.evict(), Some(0));
        sieve.insert(4);
        assert_eq!((sieve.evict(), sieve.evict(), sieve.evict()), (Some(2), Some(4), None));
        assert_eq!(sieve.len(), 0);
    }

    #[test]
    fn a_flood_of_new_entries_does_not_wash_out_those_in_use() {
        let mut sieve = Sieve::default();
        let hot: Vec<Id> = (0..10).map(|n| sieve.insert(n)).collect();
        for number in 10..10_000 {
            // Each of the hot ones is used once in fifty.
            sieve.touch(hot[number % 50 % 10]);
            sieve.insert(number);
            if sieve.len() > 100 {
                assert!(sieve.evict().unwrap() >= 10);
            }
        }
        assert_eq!(hot.iter().map(|id| *sieve.get(*id)).sum::<usize>(), 45);
    }

    #[test]
    fn any_entry_can_be_removed() {
        let mut sieve = Sieve::default();
        let ids: Vec<Id> = (0..5).map(|n| sieve.insert(n)).collect();
        sieve.touch(ids[0]);
        assert_eq!(sieve.evict(), Some(1), "the hand stands at 2 now");
        assert_eq!(sieve.remove(ids[2]), 2);
        assert_eq!(sieve.remove(ids[4]), 4);
        assert_eq!(sieve.remove(ids[0]), 0);
        *sieve.get_mut(ids[3]) = 7;
        assert_eq!((sieve.evict(), sieve.evict()), (Some(7), None));
        let id = sieve.insert(8);
        assert_eq!((*sieve.get(id), sieve.evict()), (8, Some(8)));
    }
}
