//! Tests of what is remembered of a server.

use super::*;

fn server(now: Instant) -> Server {
    let address: SocketAddr = "10.0.0.1:53".parse().unwrap();
    Server::new(address.into(), now)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn the_round_trip_is_smoothed() {
    let now = Instant::now();
    let server = server(now);
    assert_eq!((server.smoothed_rtt(), server.rtt_p95()), (None, None));
    server.answered(ms(16), now);
    assert_eq!((server.smoothed_rtt(), server.rtt_p95()), (Some(ms(16)), Some(ms(32))));
    server.answered(ms(32), now);
    // 16 + (32 - 16) / 8, and a deviation of (3 * 8 + 16) / 4.
    assert_eq!((server.smoothed_rtt(), server.rtt_p95()), (Some(ms(18)), Some(ms(38))));
    for _ in 0..200 {
        server.answered(ms(10), now);
    }
    let (rtt, p95) = (server.smoothed_rtt().unwrap(), server.rtt_p95().unwrap());
    assert!(rtt.abs_diff(ms(10)) < ms(1) && p95 < ms(11), "{rtt:?} {p95:?}");
    server.overtaken(ms(5));
    assert_eq!(server.smoothed_rtt(), Some(rtt), "faster than that it never was");
    server.overtaken(ms(100));
    assert!(server.smoothed_rtt() > Some(ms(20)));
    // Longer than any counter holds.
    server.answered(Duration::from_secs(1 << 20), now);
    assert!(server.smoothed_rtt() > Some(Duration::from_secs(60)));
}

#[test]
fn a_server_goes_down_and_comes_back() {
    let start = Instant::now();
    let server = server(start);
    let at = |ms: u64| start + Duration::from_millis(ms);
    let fails = |sent, now| server.failed(Reason::Silent, at(sent), at(now));
    server.answered(ms(1), at(0));
    assert_eq!(fails(10, 2010), None);
    assert_eq!(server.answered(ms(1), at(2020)), None);
    assert_eq!(fails(2030, 4030), None, "the first in a row");
    assert_eq!(fails(15, 4035), None, "one sent before the last answer does not count");
    assert_eq!(server.failed(Reason::Refused, at(4040), at(4041)), None);
    assert!(!server.is_down());
    assert_eq!(fails(2040, 4050), Some(HealthChange::WentDown));
    assert_eq!(server.next_probe(), Some(at(5050)));
    assert_eq!(server.down_reason(), Reason::Silent);
    assert_eq!(server.failed(Reason::Unreachable, at(4060), at(4061)), None, "it is down already");
    let mut now = at(5050);
    for seconds in [2, 4, 8, 16, 30, 30] {
        server.probed(now);
        assert_eq!(server.next_probe(), Some(now + Duration::from_secs(seconds)));
        now += Duration::from_secs(seconds);
    }
    assert_eq!(server.answered(ms(7), now), Some(HealthChange::CameBack));
    assert_eq!(server.smoothed_rtt(), Some(ms(7)), "the time before does not count");
    server.probed(now);
    assert_eq!((server.is_down(), server.next_probe()), (false, None));
    let later = now + Duration::from_secs(1);
    assert_eq!(server.failed(Reason::Tls, later, later), None);
    let down = server.failed(Reason::Tls, later, later);
    assert_eq!(down, Some(HealthChange::WentDown));
    assert_eq!(server.down_reason(), Reason::Tls);
    assert_eq!(server.next_probe(), Some(later + PROBE_PAUSE), "the pause begins anew");
}

/// Names whose answers are malformed are chosen by clients.
#[test]
fn useless_replies_do_not_mark_a_server_down() {
    let now = Instant::now();
    let server = server(now);
    for reason in [Reason::Malformed, Reason::Refused] {
        for _ in 0..3 {
            assert_eq!(server.failed(reason, now, now), None);
        }
        assert!(server.is_unusable() && !server.is_down());
        server.was_useful();
        assert!(!server.is_unusable());
    }
}

#[test]
fn edns_is_left_out_where_it_does_not_work() {
    let now = Instant::now();
    let hour = now + PLAIN_TIME;
    let later = hour + ms(1);
    let server = server(now);
    assert!(server.uses_edns(false, now) && !server.uses_edns(true, now));
    // An error.
    server.edns_refused(now);
    assert!(!server.uses_edns(false, hour) && server.uses_edns(false, later));
    server.plain_answered(now);
    assert!(!server.take_edns_check(), "this is known");
    // Silence: the next query is without, and the one after that again with.
    server.was_silent(true);
    assert!(!server.uses_edns(false, later));
    server.was_silent(false);
    assert!(server.uses_edns(false, later));
    server.was_silent(true);
    server.plain_answered(later);
    assert!(!server.uses_edns(false, later + ms(1000)));
    assert!(server.take_edns_check() && !server.take_edns_check());
    // It was silent for another reason.
    server.edns_works();
    assert!(server.uses_edns(true, later));
    server.was_silent(true);
    assert!(server.uses_edns(false, later), "it is known to work");
    server.plain_answered(later);
    assert!(server.uses_edns(false, later));
}

#[test]
fn tls_problems_are_new_once() {
    let server = server(Instant::now());
    let found = [5, 5, 6, 0, 0, 5].map(|problem| server.set_tls_problem(problem));
    assert_eq!(found, [true, false, true, true, false, true]);
}

#[test]
fn what_is_known_of_a_server_survives_a_change() {
    let now = Instant::now();
    let addresses = |texts: &[&str]| -> Vec<ServerAddress> {
        texts.iter().map(|text| text.parse::<SocketAddr>().unwrap().into()).collect()
    };
    let group = Group::new(&addresses(&["10.0.0.1:53", "10.0.0.2:53"]), now);
    assert_eq!((group.version, group.servers.len()), (1, 2));
    group.servers[1].answered(ms(5), now);
    let other = group.replaced(&addresses(&["10.0.0.2:53", "10.0.0.3:53", "10.0.0.2:53"]), now);
    assert_eq!((other.version, other.servers.len()), (2, 2), "each is asked once");
    assert!(Arc::ptr_eq(&other.servers[0], &group.servers[1]));
    assert_eq!(other.servers[1].smoothed_rtt(), None);
    // Another way to ask is another server.
    let mut over_tls = addresses(&["10.0.0.2:53"]);
    over_tls[0].tls_name = Some(ServerName::try_from("dns.example").unwrap());
    assert_eq!(other.replaced(&over_tls, now).servers[0].smoothed_rtt(), None);
    assert_eq!(over_tls[0].to_string(), "tls://10.0.0.2:53#dns.example");
    assert!(!group.is_down());
    group.servers[0].set_loop(true);
    assert!(group.is_loop("10.0.0.1".parse().unwrap()));
    assert!(!group.is_loop("10.0.0.2".parse().unwrap()));
    let later = now + ms(10);
    group.servers[1].failed(Reason::Silent, later, later);
    assert!(!group.is_down());
    group.servers[1].failed(Reason::Silent, later, later);
    assert!(group.is_down());
    assert!(Group::default().is_down());
}
