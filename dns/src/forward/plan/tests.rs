//! Tests of the order and the times, with a clock of their own.

use std::net::SocketAddr;

use super::*;
use crate::forward::server::Reason;

/// A chance that does not explore.
const NO: u32 = 1;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Servers with these round trips: `-` if there was none, `down` after failures, `loop`, and
/// `useless` if they refuse.
fn group(states: &str, now: Instant) -> Group {
    let states: Vec<&str> = states.split(' ').collect();
    let address = |n: usize| SocketAddr::from(([10, 0, 0, n as u8], 53)).into();
    let group = Group::new(&(0..states.len()).map(address).collect::<Vec<_>>(), now);
    for (state, server) in states.iter().zip(&group.servers) {
        match *state {
            "-" => {}
            "down" => {
                server.failed(Reason::Silent, now, now);
                server.failed(Reason::Silent, now, now);
            }
            "loop" => server.set_loop(true),
            "useless" => {
                server.answered(ms(1), now);
                server.failed(Reason::Refused, now, now);
                server.failed(Reason::Refused, now, now);
            }
            rtt => drop(server.answered(ms(rtt.parse().unwrap()), now)),
        }
    }
    group
}

/// Which servers are asked and after how many milliseconds, if all are silent, and when it ends.
fn timeline(group: &Group, chance: u32, start: Instant) -> String {
    let mut plan = Plan::new(group, chance, start);
    let (mut now, mut events) = (start, Vec::new());
    loop {
        let at = now.duration_since(start).as_millis();
        match plan.step(now) {
            Step::Ask(server) => {
                let again = if plan.asked(now) { "'" } else { "" };
                events.push(format!("{server}{again}@{at}"));
            }
            Step::Wait(until) => {
                assert!(until > now);
                now = until;
            }
            Step::End => {
                events.push(format!("end@{at}"));
                return events.join(" ");
            }
        }
    }
}

#[test]
fn order_and_times() {
    let now = Instant::now();
    let check = |states: &str, chance: u32, expected: &str| {
        assert_eq!(timeline(&group(states, now), chance, now), expected, "{states} {chance}");
    };
    // In their order until measured, then by their round trip.
    check("- - -", NO, "0@0 1@100 2@200 end@3500");
    check("20 10 30", NO, "1@0 0@100 2@200 end@3500");
    check("20 - -", NO, "1@0 2@100 0@200 end@3500");
    // The usual time of a slow server, but never more than a second.
    check("200 300", NO, "0@0 1@400 end@3500");
    check("800 900", NO, "0@0 1@1000 end@3500");
    // Those that are down or of no use come last, but are asked.
    check("down 20", NO, "1@0 0@100 end@3500");
    check("down useless 20", NO, "2@0 1@100 0@200 end@3500");
    check("down down down", NO, "0@0 1@100 2@200 end@2000");
    check("down loop", NO, "0@0 0'@1000 end@2000");
    // One alone is asked twice.
    check("-", NO, "0@0 0'@1000 end@3500");
    check("10", NO, "0@0 0'@1000 end@3500");
    check("10 loop", NO, "0@0 0'@1000 end@3500");
    // Loops are never asked.
    check("loop loop", NO, "end@0");
    check("loop 10 20", NO, "1@0 2@100 end@3500");
    // Now and then another server that is up is asked at the same time as the best.
    check("10 20 30", 0, "1@0 0@0 2@100 end@3500");
    check("10 20 30", EXPLORE_EVERY, "2@0 0@0 1@100 end@3500");
    check("10 20 30", 2 * EXPLORE_EVERY, "1@0 0@0 2@100 end@3500");
    check("10 down", 0, "0@0 1@100 end@3500");
    check("10", 0, "0@0 0'@1000 end@3500");
}

#[test]
fn a_failure_makes_the_next_due() {
    let now = Instant::now();
    let two = group("10 20", now);
    let mut plan = Plan::new(&two, NO, now);
    assert_eq!(plan.step(now), Step::Ask(0));
    assert!(!plan.asked(now));
    assert_eq!(plan.step(now), Step::Wait(now + ms(100)));
    plan.failed(0, true, now + ms(10));
    assert_eq!(plan.step(now + ms(10)), Step::Ask(1));
    plan.asked(now + ms(10));
    assert_eq!(plan.step(now + ms(10)), Step::Wait(plan.deadline()));
    plan.failed(1, false, now + ms(20));
    assert_eq!(plan.step(now + ms(20)), Step::End);
}

/// A server that refuses would refuse again; a datagram that was lost or damaged is sent again.
#[test]
fn one_alone_is_not_asked_again_after_a_reply() {
    let now = Instant::now();
    let one = group("10", now);
    for (has_replied, expected) in [(true, Step::End), (false, Step::Ask(0))] {
        let mut plan = Plan::new(&one, NO, now);
        plan.asked(now);
        plan.failed(0, has_replied, now);
        assert_eq!(plan.step(now), expected);
    }
}

#[test]
fn without_room_the_next_has_to_wait() {
    let now = Instant::now();
    let mut plan = Plan::new(&group("10 20", now), NO, now);
    plan.asked(now);
    let later = now + ms(100);
    assert_eq!(plan.step(later), Step::Ask(1));
    plan.postpone(later);
    assert_eq!(plan.step(later), Step::Wait(later + MIN_HEDGE));
    let last = now + DEADLINE - ms(1);
    plan.postpone(last);
    assert_eq!(plan.step(last), Step::Wait(now + DEADLINE));
}
