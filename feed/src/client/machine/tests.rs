//! What the machine asks after what it was told.

use super::*;
use crate::client::envelope::Meta;

/// A machine, and what it was told last.
struct Bench {
    machine: Machine,
    now: Instant,
}

fn version(text: &str) -> Version {
    Version::new(text)
}

fn meta(version: &str) -> Meta {
    Meta { namespace: "n".into(), name: "a".into(), version: Version::new(version) }
}

fn refusal(code: u16, retry_after: Option<u64>) -> Fault {
    let retry_after = retry_after.map(Duration::from_secs);
    Fault::Refused(Status { code, message: "no".into(), retry_after })
}

impl Bench {
    fn new() -> Bench {
        Bench { machine: Machine::new(Patience::default(), 7), now: Instant::now() }
    }

    /// One that has listed up to version 10 and watches.
    fn watching() -> Bench {
        let mut bench = Bench::new();
        bench.open();
        assert_eq!(bench.bookmark("10", true), Effect::InitDone(version("10")));
        bench
    }

    fn at(mut self, server: Server) -> Bench {
        self.machine.connected(server);
        self
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn ask(&self) -> Ask {
        match self.machine.next() {
            Next::Ask(ask) => ask,
            Next::WaitUntil(_) => panic!("it waits"),
        }
    }

    /// How long it waits; it has waited then.
    fn wait(&mut self) -> Duration {
        match self.machine.next() {
            Next::WaitUntil(until) => {
                let wait = until - self.now;
                self.now = until;
                self.machine.wake();
                wait
            }
            Next::Ask(ask) => panic!("it asks {ask:?}"),
        }
    }

    fn wait_if_any(&mut self) {
        if let Next::WaitUntil(_) = self.machine.next() {
            self.wait();
        }
    }

    fn open(&mut self) -> bool {
        self.machine.accepted(self.now)
    }

    fn event(&mut self, event: &Event) -> Effect {
        self.machine.event(event, self.now)
    }

    fn bookmark(&mut self, version: &str, ends_list: bool) -> Effect {
        self.event(&Event::Bookmark { version: Version::new(version), ends_list })
    }

    fn error(&mut self, code: u16, retry_after: Option<u64>) -> Effect {
        let Fault::Refused(status) = refusal(code, retry_after) else { unreachable!() };
        self.event(&Event::Error(status))
    }

    fn fail(&mut self, fault: &Fault) {
        self.machine.failed(fault, self.now);
    }

    fn page(&mut self, version: &str, next: Option<&str>) -> Effect {
        let next = next.map(str::to_owned);
        self.machine.page(&ListMeta { version: Version::new(version), next }, false, self.now)
    }

    /// Resumes after the connection broke, up to the watch's request.
    fn resume(&mut self, list_version: &str) -> Ask {
        self.wait_if_any();
        assert_eq!(self.ask(), Ask::Probe);
        assert!(!self.open(), "a probe is no list");
        self.page(list_version, None);
        self.ask()
    }
}

fn is_watch_from(ask: &Ask, from: &str) -> bool {
    matches!(ask, Ask::Watch { from: version, .. } if version.as_str() == from)
}

fn is_stream_list(ask: &Ask) -> bool {
    matches!(ask, Ask::StreamList { .. })
}

fn broken() -> Fault {
    Fault::Broken("reset".into())
}

#[test]
fn a_streaming_list_turns_into_the_watch() {
    let mut bench = Bench::new();
    assert!(is_stream_list(&bench.ask()));
    assert!(bench.open());
    assert!(!bench.machine.is_watching());
    for version in ["7", "3", "9"] {
        assert_eq!(bench.event(&Event::Added(meta(version))), Effect::InitApply);
    }
    assert_eq!(bench.bookmark("8", false), Effect::Nothing);
    assert_eq!(bench.bookmark("10", true), Effect::InitDone(version("10")));
    assert!(bench.machine.is_watching());
    assert_eq!(bench.event(&Event::Added(meta("11"))), Effect::Apply);
    assert_eq!(bench.event(&Event::Modified(meta("12"))), Effect::Apply);
    assert_eq!(bench.event(&Event::Deleted(meta("13"))), Effect::Delete);
    assert_eq!(bench.bookmark("20", false), Effect::Bookmark(version("20")));
    assert_eq!(bench.event(&Event::Unknown), Effect::Nothing);
    bench.fail(&broken());
    assert!(is_watch_from(&bench.resume("20"), "20"));
}

#[test]
fn what_changes_during_a_streaming_list_counts_in_order() {
    let mut bench = Bench::new();
    bench.open();
    assert_eq!(bench.event(&Event::Added(meta("7"))), Effect::InitApply);
    assert_eq!(bench.event(&Event::Deleted(meta("8"))), Effect::InitDelete);
    assert_eq!(bench.event(&Event::Added(meta("9"))), Effect::InitApply);
    assert_eq!(bench.event(&Event::Added(meta("7"))), Effect::SetBack, "it would come back");
    assert!(is_stream_list(&bench.ask()));
}

/// A way to bring a machine about.
type Turn = (&'static str, fn(&mut Bench));

#[test]
fn a_server_without_streaming_lists_gets_list_and_watch() {
    let refusals: [Turn; 6] = [
        ("400", |bench| bench.fail(&refusal(400, None))),
        ("405", |bench| bench.fail(&refusal(405, None))),
        ("422", |bench| bench.fail(&refusal(422, None))),
        ("in-stream 500", |bench| {
            bench.open();
            assert_eq!(bench.error(500, None), Effect::Stop);
        }),
        ("in-stream 422", |bench| {
            bench.open();
            assert_eq!(bench.error(422, None), Effect::Stop);
        }),
        ("no end of the list", |bench| {
            bench.open();
            assert_eq!(bench.event(&Event::Added(meta("7"))), Effect::InitApply);
            bench.fail(&Fault::Silent(Duration::from_secs(15)));
        }),
    ];
    for (name, refuse) in refusals {
        let mut bench = Bench::new();
        assert!(is_stream_list(&bench.ask()), "{name}");
        refuse(&mut bench);
        bench.wait_if_any();
        assert_eq!(bench.ask(), Ask::Page { next: None, limit: Some(500) }, "{name}");
        assert!(bench.open(), "{name}");
        assert_eq!(bench.page("10", None), Effect::InitDone(version("10")), "{name}");
        assert!(is_watch_from(&bench.ask(), "10"), "{name}");
        bench.open();
        assert_eq!(bench.error(410, None), Effect::Stop, "{name}");
        bench.wait_if_any();
        let again = Ask::Page { next: None, limit: Some(500) };
        assert_eq!(bench.ask(), again, "{name}: it is remembered");
    }
}

#[test]
fn pages_follow_each_other_and_an_expired_token_asks_for_all_in_one() {
    let mut bench = Bench::new();
    bench.fail(&refusal(400, None));
    assert!(bench.open(), "the list begins");
    assert_eq!(bench.page("10", Some("a/b=")), Effect::Nothing);
    let second = Ask::Page { next: Some("a/b=".into()), limit: Some(500) };
    assert_eq!(bench.ask(), second);
    assert_eq!(second.query(), "limit=500&continue=a%2Fb%3D");
    assert!(!bench.open(), "the list goes on");
    bench.fail(&refusal(410, None));
    let whole = Ask::Page { next: None, limit: None };
    assert_eq!(bench.ask(), whole);
    assert_eq!(whole.query(), "");
    assert!(bench.open(), "the list begins anew");
    assert_eq!(bench.page("12", None), Effect::InitDone(version("12")));
    assert!(is_watch_from(&bench.ask(), "12"));
}

#[test]
fn empty_pages_without_an_end_are_asked_for_ever_more_slowly() {
    let mut bench = Bench::new();
    bench.open();
    bench.error(500, None);
    let begun = bench.now;
    for _ in 0..20 {
        assert!(matches!(bench.ask(), Ask::Page { .. }), "{:?}", bench.ask());
        bench.open();
        let meta = ListMeta { version: Version::new("7"), next: Some("more".to_owned()) };
        assert_eq!(bench.machine.page(&meta, true, bench.now), Effect::Nothing);
        bench.wait_if_any();
    }
    let more = Ask::Page { next: Some("more".to_owned()), limit: Some(PAGE_LIMIT) };
    assert_eq!(bench.ask(), more, "the list goes on where it was");
    assert!(bench.now - begun > Duration::from_secs(2), "{:?}", bench.now - begun);
}

#[test]
fn a_list_that_takes_too_much_is_asked_for_after_the_longest_wait() {
    let mut bench = Bench::new();
    bench.open();
    bench.fail(&Fault::TooMuch(256));
    let until = bench.now + Patience::default().backoff;
    assert_eq!(bench.machine.next(), Next::WaitUntil(until));
}

#[test]
fn the_watch_begins_where_the_first_page_was() {
    let mut bench = Bench::new();
    bench.fail(&refusal(400, None));
    bench.open();
    bench.page("10", Some("x"));
    bench.open();
    assert_eq!(bench.page("14", None), Effect::InitDone(version("10")));
    assert!(is_watch_from(&bench.ask(), "10"));
}

#[test]
fn what_may_hold_vanished_objects_is_listed_anew_at_once() {
    let identity = |name: &str| Server { is_ours: true, identity: Some(name.to_owned()) };
    let causes: [Turn; 8] = [
        ("in-stream 410", |bench| assert_eq!(bench.error(410, None), Effect::Stop)),
        ("410", |bench| bench.fail(&refusal(410, None))),
        ("older event", |bench| {
            assert_eq!(bench.event(&Event::Modified(meta("9"))), Effect::SetBack);
        }),
        ("older deletion", |bench| {
            assert_eq!(bench.event(&Event::Deleted(meta("9"))), Effect::SetBack);
        }),
        ("older bookmark", |bench| assert_eq!(bench.bookmark("9", false), Effect::SetBack)),
        ("older list", |bench| {
            bench.pass(Duration::from_secs(5));
            bench.fail(&broken());
            bench.wait();
            bench.open();
            assert_eq!(bench.page("9", None), Effect::SetBack);
            bench.wait_if_any();
        }),
        ("another server", |bench| {
            bench.fail(&broken());
            bench.wait();
            let server = Server { is_ours: true, identity: Some("other".into()) };
            bench.machine.connected(server);
        }),
        ("a wish", |bench| bench.machine.forget()),
    ];
    for (name, cause) in causes {
        let mut bench = Bench::watching().at(identity("first"));
        cause(&mut bench);
        assert!(is_stream_list(&bench.ask()), "{name}");
        assert!(bench.open(), "{name}");
    }
}

#[test]
fn listing_anew_again_and_again_waits() {
    let mut bench = Bench::watching();
    let mut waited = Duration::ZERO;
    for _ in 0..20 {
        assert_eq!(bench.error(410, None), Effect::Stop);
        if let Next::WaitUntil(_) = bench.machine.next() {
            waited += bench.wait();
        }
        bench.open();
        bench.bookmark("10", true);
    }
    assert!(waited > Duration::from_secs(2), "{waited:?}");
}

#[test]
fn a_server_that_came_back_and_has_forgotten_us_is_listed_at_once() {
    let mut bench = Bench::watching();
    for _ in 0..10 {
        bench.fail(&Fault::Unreachable("refused".into()));
        bench.wait();
    }
    assert!(is_watch_from(&bench.resume("50"), "10"));
    bench.open();
    assert_eq!(bench.error(410, None), Effect::Stop);
    assert!(is_stream_list(&bench.ask()));
}

#[test]
fn the_same_server_resumes() {
    let unknown = Server::default();
    let first = Server { is_ours: true, identity: Some("first".into()) };
    for servers in [[&first, &first, &first], [&first, &unknown, &first]] {
        let mut bench = Bench::watching();
        for server in servers {
            bench.machine.connected(server.clone());
        }
        bench.fail(&broken());
        assert!(is_watch_from(&bench.resume("10"), "10"));
    }
}

#[test]
fn other_faults_keep_the_version() {
    let faults = [
        broken(),
        Fault::Ended,
        Fault::Unreachable("refused".into()),
        Fault::Silent(Duration::from_secs(25)),
        Fault::Unreadable("half a line".into()),
        refusal(429, None),
        refusal(408, None),
        refusal(500, None),
        refusal(502, None),
        refusal(503, None),
        refusal(504, Some(1)),
        refusal(404, None),
        refusal(403, None),
        refusal(302, None),
    ];
    for fault in faults {
        let mut bench = Bench::watching();
        bench.fail(&fault);
        assert!(is_watch_from(&bench.resume("10"), "10"), "{fault}");
        let mut bench = Bench::watching();
        bench.fail(&broken());
        bench.wait();
        bench.fail(&fault);
        assert!(is_watch_from(&bench.resume("11"), "10"), "{fault} at the probe");
    }
}

#[test]
fn a_list_that_broke_is_begun_anew() {
    let mut bench = Bench::new();
    bench.open();
    bench.event(&Event::Added(meta("7")));
    bench.fail(&broken());
    bench.wait();
    assert!(is_stream_list(&bench.ask()));
    assert!(bench.open(), "a second list begins");
}

#[test]
fn a_server_that_starts_and_knows_no_roles_yet_is_asked_again_soon() {
    for code in [401, 403] {
        let mut bench = Bench::watching().at(Server::default());
        let mut waits = Vec::new();
        for _ in 0..8 {
            bench.fail(&refusal(code, None));
            waits.push(bench.wait());
        }
        assert!(waits[0] < Duration::from_secs(1), "{code}: {waits:?}");
        let longest = waits.iter().max().unwrap();
        assert!(*longest > Duration::from_secs(1), "{code}, still refused: {waits:?}");
    }
}

#[test]
fn credentials_that_were_never_accepted_are_tried_again_at_the_longest_wait() {
    for code in [401, 403] {
        let mut bench = Bench::new();
        bench.fail(&refusal(code, None));
        assert_eq!(bench.wait(), Duration::from_secs(10), "{code} at the first list");
        assert!(is_stream_list(&bench.ask()), "{code} is no reason to fall back");
    }
}

#[test]
fn retry_after_is_heeded_within_reason() {
    for (code, asked_for, least) in [(429, 3, 3), (503, 2, 2), (429, 86_400, 60), (504, 1, 1)] {
        let mut bench = Bench::watching();
        bench.fail(&refusal(code, Some(asked_for)));
        let wait = bench.wait();
        let least = Duration::from_secs(least);
        assert!(wait >= least && wait <= least + Duration::from_secs(1), "{code}: {wait:?}");
    }
    let mut bench = Bench::watching();
    assert_eq!(bench.error(429, Some(4)), Effect::Stop);
    assert!(bench.wait() >= Duration::from_secs(4), "in the stream as well");
}

#[test]
fn a_version_that_the_server_refuses_for_ever_is_given_up() {
    let mut bench = Bench::watching();
    for _ in 0..4 {
        bench.fail(&refusal(500, None));
        assert!(is_watch_from(&bench.resume("10"), "10"));
        bench.open();
    }
    bench.fail(&refusal(500, None));
    bench.wait();
    assert!(is_stream_list(&bench.ask()));
    let mut bench = Bench::watching();
    for n in 11..40 {
        bench.fail(&refusal(500, None));
        bench.resume("40");
        bench.open();
        bench.bookmark(&n.to_string(), false);
    }
    bench.fail(&refusal(500, None));
    assert!(is_watch_from(&bench.resume("39"), "39"), "progress in between keeps it");
    let mut bench = Bench::new();
    for _ in 0..5 {
        assert!(is_stream_list(&bench.ask()));
        bench.fail(&refusal(500, None));
        bench.wait();
    }
    assert_eq!(bench.ask(), Ask::Page { next: None, limit: Some(500) }, "so is a streaming list");
}

#[test]
fn waits_grow_to_the_cap_of_the_server_and_shrink_after_health() {
    let ours = Server { is_ours: true, identity: None };
    for (server, cap) in [(ours, 700), (Server::default(), 10_000)] {
        let mut bench = Bench::watching().at(server);
        let cap = Duration::from_millis(cap);
        let mut longest = Duration::ZERO;
        for _ in 0..60 {
            bench.fail(&Fault::Unreachable("refused".into()));
            longest = longest.max(bench.wait());
        }
        assert!(longest <= cap && longest > cap.mul_f64(0.8), "{longest:?} of {cap:?}");
        bench.open();
        bench.page("10", None);
        bench.open();
        bench.pass(Duration::from_secs(2));
        bench.bookmark("11", false);
        bench.fail(&broken());
        assert!(bench.wait() <= Duration::from_millis(100));
    }
}

#[test]
fn a_server_that_ends_each_watch_at_once_is_not_asked_in_a_circle() {
    let mut bench = Bench::watching().at(Server::default());
    let begun = bench.now;
    for _ in 0..30 {
        bench.fail(&Fault::Ended);
        bench.resume("10");
        bench.open();
    }
    assert!(bench.now - begun > Duration::from_secs(30), "{:?}", bench.now - begun);
}

#[test]
fn versions_that_are_no_numbers_are_only_passed_on() {
    let mut bench = Bench::new();
    bench.open();
    bench.bookmark("xyz", true);
    assert_eq!(bench.event(&Event::Modified(meta("abc"))), Effect::Apply);
    bench.fail(&broken());
    let ask = bench.resume("aaa");
    assert!(is_watch_from(&ask, "abc"));
    assert!(ask.query().contains("resourceVersion=abc&"));
}

#[test]
fn how_long_the_server_may_be_silent() {
    let ours = Server { is_ours: true, identity: None };
    let mut bench = Bench::new().at(ours);
    assert_eq!(bench.machine.silence(), Duration::from_secs(15), "before the list");
    bench.open();
    assert_eq!(bench.machine.silence(), Duration::from_secs(15), "in the list");
    bench.bookmark("10", true);
    assert_eq!(bench.machine.silence(), Duration::from_secs(25));
    bench.machine.connected(Server::default());
    assert_eq!(bench.machine.silence(), Duration::from_secs(180));
}

#[test]
fn requests_carry_what_the_api_wants() {
    let list = Ask::StreamList { seconds: 400 }.query();
    assert_eq!(
        list,
        "watch=1&allowWatchBookmarks=true&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan&timeoutSeconds=400"
    );
    let watch = Ask::Watch { from: version("7"), seconds: 300 }.query();
    let expected = "watch=1&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=300";
    assert_eq!(watch, expected);
    assert_eq!(Ask::Probe.query(), "limit=1");
    let mut bench = Bench::new();
    for _ in 0..50 {
        let Ask::StreamList { seconds } = bench.ask() else { panic!("{:?}", bench.ask()) };
        assert!((300..=600).contains(&seconds));
        bench.fail(&broken());
        bench.wait();
    }
}
