//! A server that loses, doubles, reorders, cuts and refuses, by random sequences of faults:
//! when they end, the objects here are the server's, soon.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::client::machine::{Ask, Server};

/// Longer than any object but the giant.
const MAX_OBJECT: usize = 1000;
const GIANT: u8 = 7;
/// From the end of all faults until the objects here are the server's.
const RECOVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    /// The server delivers up to so many lines, in chunks of that size.
    Deliver(u8, u8),
    Bookmark,
    /// The client does what it wants to do now, if it waits for nothing.
    Turn,
    /// Time passes, in milliseconds.
    Pass(u16),
    Break,
    End,
    HalfLine,
    Garbage,
    /// A line that was delivered comes again.
    Again(u8),
    /// The next two lines come in the wrong order. Both come: of a server that sends the later
    /// one and breaks off then, nobody could tell that it left one out.
    Swap,
    ErrorLine(u16),
    /// The next responses are errors.
    Refuse(u8, u16),
    Unreachable(u8),
    Silent,
    /// The server forgets how it got here.
    Compact,
    /// The tokens of pages expire.
    ExpirePages,
    NoStreamingLists,
    SetBack,
    OtherServer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9u8).prop_map(Step::Put),
        4 => (0..9u8).prop_map(Step::Delete),
        8 => (1..6u8, 1..200u8).prop_map(|(n, size)| Step::Deliver(n, size)),
        3 => Just(Step::Bookmark),
        8 => Just(Step::Turn),
        4 => (1..3000u16).prop_map(Step::Pass),
        1 => Just(Step::Break),
        1 => Just(Step::End),
        1 => Just(Step::HalfLine),
        1 => Just(Step::Garbage),
        1 => (1..5u8).prop_map(Step::Again),
        1 => Just(Step::Swap),
        1 => prop::sample::select(&[410, 500, 504, 429][..]).prop_map(Step::ErrorLine),
        1 => (1..4u8, prop::sample::select(&[400, 404, 408, 410, 422, 429, 500, 503][..]))
            .prop_map(|(n, code)| Step::Refuse(n, code)),
        1 => (1..6u8).prop_map(Step::Unreachable),
        1 => Just(Step::Silent),
        1 => Just(Step::Compact),
        1 => Just(Step::ExpirePages),
        1 => Just(Step::NoStreamingLists),
        1 => Just(Step::SetBack),
        1 => Just(Step::OtherServer),
    ]
}

/// What the server has: name → the version at which it was put.
type Objects = BTreeMap<u8, u64>;
/// The version of an event, its type and its object.
type Happened = (u64, &'static str, u8);

/// An object's line of a watch, or bookmark.
#[derive(Clone, Debug)]
struct Sent(String);

struct FakeServer {
    identity: u32,
    version: u64,
    objects: Objects,
    history: Vec<Happened>,
    /// Versions below this have no history.
    oldest: u64,
    saved: Option<(u64, Objects, Vec<Happened>)>,
    streaming: bool,
    pages: BTreeMap<String, (u64, Objects)>,
    refuse: VecDeque<u16>,
    unreachable: u8,
}

impl FakeServer {
    fn new(identity: u32, version: u64) -> FakeServer {
        FakeServer {
            identity,
            version,
            objects: Objects::new(),
            history: Vec::new(),
            oldest: version,
            saved: None,
            streaming: true,
            pages: BTreeMap::new(),
            refuse: VecDeque::new(),
            unreachable: 0,
        }
    }

    fn heal(&mut self) {
        self.refuse.clear();
        self.unreachable = 0;
        self.streaming = true;
    }

    fn put(&mut self, name: u8) -> String {
        self.version += 1;
        let known = self.objects.insert(name, self.version).is_some();
        let event = if known { "MODIFIED" } else { "ADDED" };
        self.history.push((self.version, event, name));
        line(event, name, self.version)
    }

    fn delete(&mut self, name: u8) -> Option<String> {
        self.objects.remove(&name)?;
        self.version += 1;
        self.history.push((self.version, "DELETED", name));
        Some(line("DELETED", name, self.version))
    }

    fn page(&mut self, next: Option<&str>, limit: Option<u32>) -> Result<String, u16> {
        let (version, mut rest) = match next {
            None => (self.version, self.objects.clone()),
            Some(token) => self.pages.get(token).cloned().ok_or(410u16)?,
        };
        // Small pages, so that lists have several.
        let limit = limit.map_or(usize::MAX, |limit| limit.min(2) as usize);
        let items: Vec<_> = rest.iter().take(limit).map(|(n, v)| object(*n, *v)).collect();
        rest = rest.into_iter().skip(limit).collect();
        let next = (!rest.is_empty()).then(|| format!("{version}-{}", rest.len()));
        let meta = match &next {
            None => format!("{{\"resourceVersion\":\"{version}\"}}"),
            Some(n) => format!("{{\"resourceVersion\":\"{version}\",\"continue\":\"{n}\"}}"),
        };
        if let Some(next) = next {
            self.pages.insert(next, (version, rest));
        }
        Ok(format!("{{\"metadata\":{meta},\"items\":[{}]}}", items.join(",")))
    }
}

fn object(name: u8, version: u64) -> String {
    let padding = if name == GIANT { "x".repeat(3 * MAX_OBJECT) } else { String::new() };
    format!(
        "{{\"metadata\":{{\"name\":\"{name}\",\"resourceVersion\":\"{version}\"}},\
         \"padding\":\"{padding}\"}}"
    )
}

fn line(event: &str, name: u8, version: u64) -> String {
    format!("{{\"type\":\"{event}\",\"object\":{}}}", object(name, version))
}

fn bookmark(version: u64, ends_list: bool) -> String {
    let end = if ends_list { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{version}\"\
         {end}}}}}}}"
    )
}

/// The client, the server and the connection between them.
struct World {
    server: FakeServer,
    session: Session,
    now: Instant,
    /// The open watch: lines on their way, whether the list's end is still to be sent.
    stream: Option<(VecDeque<Sent>, bool)>,
    delivered: Vec<Sent>,
    connected: bool,
    here: Objects,
    listing: Objects,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            server: FakeServer::new(1, 1000),
            session: session(seed, MAX_OBJECT),
            now: Instant::now(),
            stream: None,
            delivered: Vec::new(),
            connected: false,
            here: Objects::new(),
            listing: Objects::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(name) => {
                let line = self.server.put(name);
                self.send(line);
            }
            Step::Delete(name) => {
                if let Some(line) = self.server.delete(name) {
                    self.send(line);
                }
            }
            Step::Deliver(count, size) => self.deliver(count.into(), size.into()),
            Step::Bookmark => {
                if self.stream.as_ref().is_some_and(|(_, in_list)| !in_list) {
                    self.send(bookmark(self.server.version, false));
                }
            }
            Step::Turn => self.turn(),
            Step::Pass(ms) => self.now += Duration::from_millis(ms.into()),
            Step::Break => self.close(&Fault::Broken("reset".into())),
            Step::Silent => self.close(&Fault::Silent(Duration::from_secs(25))),
            Step::End => self.end(),
            Step::HalfLine => self.half_line(),
            Step::Garbage => self.chunk("{\"type\":\"ADD\n"),
            Step::Again(back) => {
                let line = self.delivered.iter().rev().nth(usize::from(back) - 1).cloned();
                if let Some(Sent(line)) = line {
                    self.chunk(&(line + "\n"));
                }
            }
            Step::Swap => {
                if let Some((lines, _)) = &mut self.stream
                    && lines.len() > 1
                {
                    lines.swap(0, 1);
                    self.deliver(2, 1000);
                }
            }
            Step::ErrorLine(code) => {
                let error = format!("{{\"type\":\"ERROR\",\"object\":{{\"code\":{code}}}}}\n");
                self.chunk(&error);
            }
            Step::Refuse(count, code) => {
                self.server.refuse.extend(vec![code; count.into()]);
            }
            Step::Unreachable(count) => self.server.unreachable = count,
            Step::Compact => self.server.oldest = self.server.version,
            Step::ExpirePages => self.server.pages.clear(),
            Step::NoStreamingLists => self.server.streaming = false,
            Step::SetBack => self.set_back(),
            Step::OtherServer => {
                self.close(&Fault::Broken("reset".into()));
                let other = self.server.identity + 1;
                let mut server = FakeServer::new(other, self.server.version / 2 + 700);
                for name in 3..6 {
                    server.put(name);
                }
                self.server = server;
            }
        }
    }

    /// The server is restored from an earlier state, and the client sees it before it has
    /// caught up: later, nobody could tell.
    fn set_back(&mut self) {
        let server = &mut self.server;
        let now = (server.version, server.objects.clone(), server.history.clone());
        let Some((version, objects, history)) = server.saved.replace(now) else { return };
        (server.version, server.objects, server.history) = (version, objects, history);
        server.oldest = server.oldest.min(version);
        server.pages.clear();
        self.close(&Fault::Broken("reset".into()));
        self.server.heal();
        self.recover();
        self.server.saved = None;
    }

    fn send(&mut self, line: String) {
        if let Some((lines, _)) = &mut self.stream {
            lines.push_back(Sent(line));
        }
    }

    fn deliver(&mut self, count: usize, size: usize) {
        for _ in 0..count {
            let version = self.server.version;
            let Some((lines, in_list)) = &mut self.stream else { return };
            if lines.is_empty() && std::mem::take(in_list) {
                lines.push_back(Sent(bookmark(version, true)));
            }
            let Some(Sent(line)) = lines.pop_front() else { return };
            self.delivered.push(Sent(line.clone()));
            let line = line + "\n";
            for at in (0..line.len()).step_by(size) {
                self.chunk(&line[at..(at + size).min(line.len())]);
            }
        }
    }

    fn half_line(&mut self) {
        let Some((lines, _)) = &mut self.stream else { return };
        let Some(Sent(line)) = lines.pop_front() else { return };
        self.chunk(&line[..line.len() / 2]);
        self.end();
    }

    fn chunk(&mut self, text: &str) {
        if self.stream.is_none() {
            return;
        }
        let (here, listing) = (&mut self.here, &mut self.listing);
        let mut tell = |told: StreamEvent<'_>| told_to(here, listing, &told);
        if self.session.chunk(text.as_bytes(), self.now, &mut tell).is_break() {
            self.stream = None;
        }
    }

    fn end(&mut self) {
        if self.stream.take().is_some() {
            self.session.end(self.now, &mut |told| panic!("{told:?}")).unwrap_err();
        }
    }

    fn close(&mut self, fault: &Fault) {
        self.connected = false;
        if self.stream.take().is_some() {
            self.session.failed(fault, self.now);
        }
    }

    /// The client does what it wants, unless it waits or reads.
    fn turn(&mut self) {
        if self.stream.is_some() {
            return;
        }
        if let Next::WaitUntil(until) = self.session.next() {
            if self.now < until {
                return;
            }
            self.session.wake();
        }
        if self.server.unreachable > 0 {
            self.server.unreachable -= 1;
            let fault = Fault::Unreachable("refused".into());
            return self.session.failed(&fault, self.now);
        }
        if !std::mem::replace(&mut self.connected, true) {
            let identity = Some(self.server.identity.to_string());
            self.session.connected(Server { is_ours: true, identity });
        }
        let Next::Ask(ask) = self.session.next() else { unreachable!() };
        if let Some(code) = self.server.refuse.pop_front() {
            return self.respond(code, "{\"kind\":\"Status\",\"message\":\"no\"}");
        }
        self.answer(&ask);
    }

    fn answer(&mut self, ask: &Ask) {
        let server = &mut self.server;
        match ask {
            Ask::Probe => {
                let list = server.page(None, Some(1)).unwrap();
                self.respond(200, &list);
            }
            Ask::Page { next, limit } => match server.page(next.as_deref(), *limit) {
                Ok(list) => self.respond(200, &list),
                Err(code) => self.respond(code, ""),
            },
            Ask::StreamList { .. } if !server.streaming => self.respond(422, ""),
            Ask::StreamList { .. } => {
                let lines = server.objects.iter().map(|(n, v)| Sent(line("ADDED", *n, *v)));
                let lines = lines.collect();
                self.open(lines, true);
            }
            Ask::Watch { from, .. } => {
                let from = from.number().unwrap();
                let lines = if from < server.oldest || from > server.version {
                    [Sent("{\"type\":\"ERROR\",\"object\":{\"code\":410}}".into())].into()
                } else {
                    let missed = server.history.iter().filter(|(version, ..)| *version > from);
                    missed.map(|(v, event, n)| Sent(line(event, *n, *v))).collect()
                };
                self.open(lines, false);
            }
        }
    }

    fn open(&mut self, lines: VecDeque<Sent>, in_list: bool) {
        self.stream = Some((lines, in_list));
        self.delivered.clear();
        let (here, listing) = (&mut self.here, &mut self.listing);
        self.session.response(200, None, self.now, &mut |told| told_to(here, listing, &told));
    }

    /// A response that is no stream.
    fn respond(&mut self, code: u16, body: &str) {
        let (here, listing) = (&mut self.here, &mut self.listing);
        let mut tell = |told: StreamEvent<'_>| told_to(here, listing, &told);
        self.session.response(code, None, self.now, &mut tell);
        for chunk in body.as_bytes().chunks(50) {
            assert!(self.session.chunk(chunk, self.now, &mut tell).is_continue());
        }
        // A fault shows in what is asked next.
        let _ = self.session.end(self.now, &mut tell);
    }

    /// Nothing goes wrong any more: the time until the client has all that the server has.
    fn recover(&mut self) -> Duration {
        let begun = self.now;
        for _ in 0..1000 {
            if let Next::WaitUntil(until) = self.session.next()
                && self.stream.is_none()
            {
                self.now = self.now.max(until);
            }
            self.turn();
            self.deliver(1000, 1000);
            let watching = self.session.machine().is_watching() && self.stream.is_some();
            if watching && self.is_equal() {
                return self.now - begun;
            }
        }
        panic!("never in sync: {:?} here, {:?} there", self.here, self.server.objects);
    }

    fn is_equal(&self) -> bool {
        let mut there = self.server.objects.clone();
        there.remove(&GIANT);
        self.here == there
    }
}

/// Does what the store does.
fn told_to(here: &mut Objects, listing: &mut Objects, told: &StreamEvent<'_>) {
    let object = |text: &Text<'_>| {
        let (Text::Line(bytes) | Text::Object(bytes)) = text;
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let object = if matches!(text, Text::Line(_)) { &value["object"] } else { &value };
        let text = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
        (text("name").parse().unwrap(), text("resourceVersion").parse().unwrap())
    };
    match told {
        StreamEvent::Init => listing.clear(),
        StreamEvent::InitApply(text) => {
            let (name, version) = object(text);
            listing.insert(name, version);
        }
        StreamEvent::InitDelete(meta) => {
            listing.remove(&meta.name.parse().unwrap());
        }
        StreamEvent::InitDone(_) => *here = std::mem::take(listing),
        StreamEvent::Apply(text, _) => {
            let (name, version) = object(text);
            here.insert(name, version);
        }
        StreamEvent::Delete(meta) => {
            here.remove(&meta.name.parse().unwrap());
        }
        StreamEvent::Bookmark(_) | StreamEvent::TooLong { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn after_any_faults_the_objects_here_are_the_servers(
        seed: u64,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(seed);
        let mut refused_by_kind = false;
        for step in steps {
            // A kind that is not there is asked for at the longest wait, on purpose.
            refused_by_kind |= matches!(step, Step::Refuse(_, 404));
            world.step(step);
            if world.server.saved.is_none() && world.server.version.is_multiple_of(5) {
                let server = &world.server;
                let state = (server.version, server.objects.clone(), server.history.clone());
                world.server.saved = Some(state);
            }
        }
        world.server.heal();
        let took = world.recover();
        prop_assert!(took <= RECOVERY || refused_by_kind, "{took:?}");
    }
}
