//! The cache's rules, with time passed in.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn answer(ttl: u32) -> Arc<Stored> {
    let error = Some(ExtendedError { code: 0, text: "x".repeat(ttl as usize % 7).into() });
    Arc::new(Stored { ttl, ..Stored::without_records(Rcode::NOERROR, error) })
}

fn key(name: &str) -> Arc<[u8]> {
    name.as_bytes().into()
}

fn failure(rcode: Rcode) -> Failure {
    Failure { rcode, error: None }
}

fn fresh(answer: &Arc<Stored>, age: u32, refresh: bool) -> Found {
    Found::Fresh { answer: answer.clone(), age, refresh }
}

#[test]
fn answers_grow_old_then_stale_then_leave() {
    let cache = Cache::new(1 << 20);
    let (name, kept, now) = (key("a"), answer(60), Instant::now());
    assert_eq!(cache.look_up(&name, 0, now), Found::Nothing);
    cache.put(&name, &kept, now);
    assert_eq!(cache.look_up(&name, 0, now), fresh(&kept, 0, false));
    let last = now + 60 * SECOND - Duration::from_millis(1);
    assert_eq!(cache.peek(&name, 0, last).unwrap().hits, 1);
    let stale = |may_ask| Found::Stale { answer: kept.clone(), may_ask };
    assert_eq!(cache.look_up(&name, 0, now + 60 * SECOND), stale(true));
    assert_eq!(cache.look_up(&name, 0, now + STALE_TIME), stale(true));
    let too_late = now + STALE_TIME + 60 * SECOND;
    assert_eq!(cache.look_up(&name, 0, too_late), Found::Nothing);
    assert_eq!(cache.peek(&name, 0, too_late).unwrap().answer, None);
    // A TTL of zero is not kept, and takes the place of what was kept.
    cache.put(&name, &answer(0), now);
    assert_eq!(cache.look_up(&name, 0, now), Found::Nothing);
    assert_eq!(cache.totals().entries, 0);
}

#[test]
fn a_failure_does_not_hide_a_stale_answer() {
    let cache = Cache::new(1 << 20);
    let (name, kept, now) = (key("a"), answer(60), Instant::now());
    cache.put(&name, &kept, now);
    let later = now + 61 * SECOND;
    cache.put_failure(&name, &failure(Rcode::SERVFAIL), 0, later);
    let stale = |may_ask| Found::Stale { answer: kept.clone(), may_ask };
    assert_eq!(cache.look_up(&name, 0, later), stale(false));
    assert_eq!(cache.look_up(&name, 0, later + RETRY), stale(true));
    cache.defer(&name, later + RETRY);
    assert_eq!(cache.look_up(&name, 0, later + RETRY + SECOND), stale(false));
    // NXDOMAIN does.
    let nxdomain = Arc::new(Stored { ttl: 5, ..Stored::without_records(Rcode::NXDOMAIN, None) });
    cache.put(&name, &nxdomain, later);
    assert_eq!(cache.look_up(&name, 0, later), fresh(&nxdomain, 0, false));
}

#[test]
fn failures_are_remembered_twice_as_long_each_time() {
    let cache = Cache::new(0);
    let name = key("dead");
    let failed = failure(Rcode::SERVFAIL);
    let mut now = Instant::now();
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(cache.look_up(&name, 1, now), Found::Nothing);
        cache.put_failure(&name, &failed, 1, now);
        let pause = Duration::from_secs(seconds);
        let before = now + pause - Duration::from_millis(1);
        assert_eq!(cache.look_up(&name, 1, before), Found::Failed(failed.clone()), "{seconds}");
        assert_eq!(cache.look_up(&name, 2, before), Found::Nothing, "other upstreams");
        now += pause;
    }
    // Other upstreams begin anew, and so does a failure long after the last.
    cache.put_failure(&name, &failed, 2, now);
    assert_eq!(cache.look_up(&name, 2, now + SECOND), Found::Nothing);
    now += SECOND + MAX_PAUSE;
    cache.put_failure(&name, &failed, 2, now);
    assert_eq!(cache.look_up(&name, 2, now + SECOND), Found::Nothing);
    // An answer ends it, even where none are kept.
    cache.put_failure(&name, &failed, 2, now);
    cache.put(&name, &answer(60), now);
    assert_eq!(cache.look_up(&name, 2, now), Found::Nothing);
}

#[test]
fn names_in_use_are_refreshed_once_before_they_expire() {
    let cache = Cache::new(1 << 20);
    let (name, kept, now) = (key("a"), answer(100), Instant::now());
    cache.put(&name, &kept, now);
    let late = now + 97 * SECOND;
    assert_eq!(cache.look_up(&name, 0, late), fresh(&kept, 97, false), "the first use");
    assert_eq!(cache.look_up(&name, 0, late), fresh(&kept, 97, false));
    let early = now + 89 * SECOND;
    assert_eq!(cache.look_up(&name, 0, early), fresh(&kept, 89, false), "too soon");
    assert_eq!(cache.look_up(&name, 0, late), fresh(&kept, 97, true));
    assert_eq!(cache.look_up(&name, 0, late), fresh(&kept, 97, false), "only once");
    cache.put_failure(&name, &failure(Rcode::SERVFAIL), 0, late);
    let last = now + 99 * SECOND;
    assert_eq!(cache.look_up(&name, 0, last), fresh(&kept, 99, false), "changes nothing");
}

#[test]
fn memory_is_bounded_and_a_flood_spares_hot_names() {
    let limit = 1 << 20;
    let cache = Cache::new(limit);
    let (now, kept) = (Instant::now(), answer(1000));
    let hot: Vec<_> = (0..100).map(|n| key(&format!("hot{n}"))).collect();
    let mut hits = 0;
    for number in 0..100_000 {
        let cold = key(&format!("cold{number}"));
        match number % 3 {
            0 => cache.put_failure(&cold, &failure(Rcode::SERVFAIL), 0, now),
            _ => cache.put(&cold, &kept, now),
        }
        let name = &hot[number * 7 % hot.len()];
        match cache.look_up(name, 0, now) {
            Found::Nothing => cache.put(name, &kept, now),
            _ => hits += 1,
        }
    }
    let totals = cache.totals();
    assert!(totals.bytes <= limit, "{totals:?}");
    assert!(totals.entries > 1000 && totals.evictions > 50_000, "{totals:?}");
    assert!(hits >= 99_000, "{hits} of 100,000 hits");
}

#[test]
fn what_is_kept_can_be_shown() {
    let cache = Cache::new(1 << 20);
    let (name, kept, now) = (key("a"), answer(10), Instant::now());
    assert_eq!(cache.peek(&name, 0, now), None);
    cache.put(&name, &kept, now);
    cache.look_up(&name, 0, now);
    let shown = cache.peek(&name, 0, now + 4 * SECOND).unwrap();
    assert_eq!(shown.answer, Some((kept.clone(), 4 * SECOND, Some(6 * SECOND))));
    assert_eq!((shown.hits, shown.failure), (1, None));
    let later = now + 12 * SECOND;
    cache.put_failure(&name, &failure(Rcode::REFUSED), 0, later);
    let shown = cache.peek(&name, 0, later).unwrap();
    assert_eq!(shown.answer, Some((kept, 12 * SECOND, None)));
    assert_eq!(shown.failure, Some((failure(Rcode::REFUSED), SECOND)));
}
