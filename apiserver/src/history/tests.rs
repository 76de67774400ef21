//! The history as its readers see it.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const START: u64 = 1000;
const CREATED: &str = "2026-11-20T08:04:31Z";

fn content(name: &str, value: u32) -> Content {
    let object = json!({"metadata": {"labels": {"n": value.to_string()}}, "spec": value});
    Content::of(Resource::Services, ObjectName::new("shop", name), object, name)
}

fn put(name: &str, value: u32) -> Change {
    Change::Put(Resource::Services, content(name, value))
}

fn delete(name: &str) -> Change {
    Change::Delete(Resource::Services, ObjectName::new("shop", name))
}

fn loaded(limits: Limits) -> History {
    let mut history = History::new(START, limits);
    history.load(vec![put("a", 1), put("b", 1)], CREATED);
    history
}

/// `name=value@version` of each object.
fn list(snapshot: &Snapshot) -> String {
    let objects = snapshot.objects.iter();
    let one = |(name, entry): (&ObjectName, &Arc<Entry>)| {
        format!("{}={}@{}", name.name, entry.label("n").unwrap(), entry.stamp.version - START)
    };
    objects.map(one).collect::<Vec<_>>().join(" ")
}

/// `TYPE name@version` of each event, and the cut after them.
fn tell(recent: &Recent) -> String {
    let events = recent.events.iter();
    let one = |event: &Event| {
        let name = &event.entry.name.name;
        format!("{} {name}@{}; ", event.event_type.as_str(), event.version() - START)
    };
    events.map(one).collect::<String>() + &(recent.up_to - START).to_string()
}

fn after(history: &History, version: u64) -> String {
    match history.after(Resource::Services, START + version, usize::MAX) {
        Ok(recent) => tell(&recent),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_changed_object_takes_the_next_version_and_no_other_does() {
    let mut history = loaded(Limits::DEFAULT);
    assert_eq!(list(&history.current(Resource::Services)), "a=1@1 b=1@2");
    assert_eq!(history.version(), START + 3, "the load is a cut of its own");
    let batch = vec![put("a", 1), put("b", 2), put("c", 1), delete("a"), delete("nothing")];
    assert_eq!(history.commit(batch, CREATED, Duration::ZERO), 3);
    assert_eq!(list(&history.current(Resource::Services)), "b=2@4 c=1@5");
    assert_eq!(after(&history, 3), "MODIFIED b@4; ADDED c@5; DELETED a@6; 6");
    assert_eq!(after(&history, 5), "DELETED a@6; 6");
    assert_eq!(after(&history, 6), "6");
    assert_eq!(history.commit(vec![put("b", 2)], CREATED, Duration::ZERO), 0);
    assert_eq!(history.version(), START + 6);
}

#[test]
fn a_cut_holds_for_the_other_resources_too() {
    let mut history = loaded(Limits::DEFAULT);
    history.commit(vec![put("c", 1)], CREATED, Duration::ZERO);
    let recent = history.after(Resource::Secrets, START + 3, usize::MAX).unwrap();
    assert_eq!(tell(&recent), "4");
    assert!(recent.is_newest);
}

#[test]
fn a_version_out_of_reach_is_told_apart() {
    let history = loaded(Limits::DEFAULT);
    assert_eq!(after(&history, 2), "too old resource version: 1002 (1003)");
    assert_eq!(after(&history, 4), "Too large resource version: 1004, current: 1003");
    assert!(history.at(Resource::Services, START + 3).is_ok());
    assert!(matches!(history.at(Resource::Services, START + 2), Err(VersionError::TooOld { .. })));
}

#[test]
fn the_past_can_be_listed() {
    let mut history = loaded(Limits::DEFAULT);
    let batch = vec![put("b", 2), put("c", 1), put("c", 2), delete("a"), delete("c")];
    history.commit(batch, CREATED, Duration::ZERO);
    let at = |version| list(&history.at(Resource::Services, START + version).unwrap().snapshot());
    assert_eq!(at(3), "a=1@1 b=1@2");
    assert_eq!(at(4), "a=1@1 b=2@4");
    assert_eq!(at(5), "a=1@1 b=2@4 c=1@5");
    assert_eq!(at(6), "a=1@1 b=2@4 c=2@6");
    assert_eq!(at(7), "b=2@4 c=2@6");
    assert_eq!(at(8), "b=2@4");
}

/// The further back a list went, the longer all others waited for it.
#[test]
fn an_old_list_is_made_from_a_state_near_it() {
    const EVERY: u32 = 100;
    let (keep_every, age) = (EVERY as usize, Duration::ZERO);
    let limits = Limits { events: 3 * keep_every, age, keep_every, ..Limits::DEFAULT };
    let mut history = loaded(limits);
    let changes = |name: &str, values: std::ops::Range<u32>| -> Vec<_> {
        values.map(|value| put(name, value)).collect()
    };
    let last = 2 * EVERY + 50;
    history.commit(changes("a", 2..2 + last), CREATED, Duration::ZERO);
    for back in [0, 1, 49, 50, 51, 150, 249, 250] {
        let version = history.version() - u64::from(back);
        let rewind = history.at(Resource::Services, version).unwrap();
        assert!(rewind.undo.len() <= keep_every, "{back}: {}", rewind.undo.len());
        let at = if back == last { 1 } else { version - START };
        let expected = format!("a={}@{at} ", 1 + last - back);
        assert!(list(&rewind.snapshot()).starts_with(&expected), "{back}: {expected}");
    }
    assert_eq!(history.logs[Resource::Services.index()].kept.len(), 2);
    history.commit(changes("b", 2..2 + 3 * EVERY), CREATED, Duration::from_secs(1));
    let log = &history.logs[Resource::Services.index()];
    assert!(log.kept.iter().all(|kept| kept.version > log.floor), "the others are forgotten");
    assert_eq!(log.kept.len(), 3);
}

#[test]
fn events_are_handed_over_in_parts() {
    let mut history = loaded(Limits::DEFAULT);
    history.commit(vec![put("c", 1), put("d", 1), put("e", 1)], CREATED, Duration::ZERO);
    let first = history.after(Resource::Services, START + 3, 2).unwrap();
    assert_eq!((tell(&first).as_str(), first.is_newest), ("ADDED c@4; ADDED d@5; 5", false));
    let rest = history.after(Resource::Services, first.up_to, 2).unwrap();
    assert_eq!((tell(&rest).as_str(), rest.is_newest), ("ADDED e@6; 6", true));
}

#[test]
fn events_are_forgotten_only_when_old_and_many() {
    let limits =
        Limits { age: Duration::from_secs(75), events: 2, bytes: usize::MAX, ..Limits::DEFAULT };
    let mut history = loaded(limits);
    for second in 0..100 {
        let change = vec![put("a", 100 + second)];
        history.commit(change, CREATED, Duration::from_secs(second.into()));
    }
    // The clock stands at 99 s: what happened before 24 s is forgotten.
    assert_eq!(history.fill().events, 76);
    let oldest = START + 3 + 24;
    assert!(history.after(Resource::Services, oldest, 1).is_ok());
    assert_eq!(
        history.after(Resource::Services, oldest - 1, 1).unwrap_err(),
        VersionError::TooOld { asked: oldest - 1, oldest }
    );
    history.commit(vec![put("b", 2)], CREATED, Duration::from_secs(10_000));
    assert_eq!(history.fill().events, 2, "the newest stay whatever their age");
    assert!(history.after(Resource::Secrets, START + 3, 1).is_ok(), "others forget nothing");
}

#[test]
fn memory_is_bounded_whatever_changes_how_fast() {
    let limits = Limits { bytes: 100_000, ..Limits::DEFAULT };
    let mut history = loaded(limits);
    for value in 0..10_000 {
        history.commit(vec![put("a", value)], CREATED, Duration::ZERO);
        assert!(history.fill().bytes <= limits.bytes);
    }
    let fill = history.fill();
    assert!(fill.events > 50 && fill.bytes > limits.bytes / 2, "{fill:?}");
    let counted: usize = history.logs.iter().flat_map(|l| &l.events).map(|p| p.event.size()).sum();
    let kept: usize = history.logs.iter().flat_map(|l| &l.kept).map(Snapshot::size).sum();
    assert_eq!(counted + kept, fill.bytes);
}

#[test]
fn generation_and_creation_are_as_the_api_has_them() {
    let mut history = History::new(START, Limits::DEFAULT);
    let name = ObjectName::new("shop", "web-1");
    let mut stamp_after = |object| {
        let content = Content::of(Resource::EndpointSlices, name.clone(), object, "u");
        let change = vec![Change::Put(Resource::EndpointSlices, content)];
        history.commit(change, CREATED, Duration::ZERO);
        let stamp = history.current(Resource::EndpointSlices).objects[&name].stamp.clone();
        (stamp.generation, stamp.created.to_string())
    };
    assert_eq!(stamp_after(json!({"ports": []})), (1, CREATED.to_owned()));
    let labels = json!({"metadata": {"labels": {"a": "b"}}, "ports": []});
    assert_eq!(stamp_after(labels).0, 1, "labels are not the object's specification");
    assert_eq!(stamp_after(json!({"ports": [1]})).0, 2);
    let older = "2020-01-01T00:00:00Z";
    let dated = json!({"metadata": {"creationTimestamp": older}, "ports": [1]});
    assert_eq!(stamp_after(dated), (2, older.to_owned()));
}

proptest! {
    /// A watcher that began anywhere, in steps of any size, ends at the list.
    #[test]
    fn a_list_and_its_events_make_the_newest_list(
        batches in proptest::collection::vec(
            proptest::collection::vec((0..5u32, proptest::option::of(0..3u32)), 0..6), 0..12),
        began in 0usize..12,
        step in 1usize..4,
    ) {
        let mut history = loaded(Limits { keep_every: 3, ..Limits::DEFAULT });
        let mut watched = history.current(Resource::Services);
        for (i, batch) in batches.iter().enumerate() {
            let change = |(name, value): &(u32, Option<u32>)| match value {
                Some(value) => put(&name.to_string(), *value),
                None => delete(&name.to_string()),
            };
            history.commit(batch.iter().map(change).collect(), CREATED, Duration::ZERO);
            if i < began {
                watched = history.current(Resource::Services);
            }
        }
        loop {
            let recent = history.after(Resource::Services, watched.version, step).unwrap();
            for event in &recent.events {
                prop_assert!(event.version() > watched.version);
                watched.version = event.version();
                let name = event.entry.name.clone();
                let was = watched.objects.contains_key(&name);
                prop_assert_eq!(was, event.event_type != EventType::Added);
                match event.event_type {
                    EventType::Deleted => watched.objects.remove(&name),
                    _ => watched.objects.insert(name, event.entry.clone()),
                };
            }
            watched.version = recent.up_to;
            let past = history.at(Resource::Services, watched.version).unwrap();
            prop_assert_eq!(list(&past.snapshot()), list(&watched));
            if recent.is_newest {
                break;
            }
        }
        prop_assert_eq!(list(&watched), list(&history.current(Resource::Services)));
    }
}
