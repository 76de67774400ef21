//! The relay over real sockets and without a data thread: what has happened to both sockets
//! before it looks is up to the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::SockRef;

use super::*;
use crate::room::{Limits, Room};

/// How long any read may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// A relay, and the far ends of its two connections.
struct Fixture {
    client: TcpStream,
    endpoint: TcpStream,
    sides: [Side; 2],
    up: Flow,
    down: Flow,
    tools: Tools,
    meter: Meter,
    epoll: OwnedFd,
}

/// The far end of a connection, and the near one.
fn connection() -> (TcpStream, Side) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let near = listener.accept().unwrap().0;
    near.set_nonblocking(true).unwrap();
    (far, Side::new(near.into()))
}

impl Fixture {
    fn new() -> Fixture {
        let ((client, near_client), (endpoint, upstream)) = (connection(), connection());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let sides = [near_client, upstream];
        let watched = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::PRI;
        for (number, side) in (0..).zip(&sides) {
            let data = epoll::EventData::new_u64(number);
            epoll::add(&epoll, &side.socket, data, watched | EventFlags::ET).unwrap();
        }
        let room = Room::new(10_000, 100, Limits::default());
        let mut fixture = Fixture {
            client,
            endpoint,
            sides,
            up: Flow::new(true),
            down: Flow::new(true),
            tools: Tools::new(Pipes::new(room)),
            meter: Meter::default(),
            epoll,
        };
        assert_eq!(fixture.turn(), Progress::Waits);
        fixture
    }

    /// Acts on each event as the data thread does, until it is over or nothing is left to do.
    fn turn(&mut self) -> Progress {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(2);
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&nothing)).unwrap();
            if events.is_empty() {
                return Progress::Waits;
            }
            for event in events.drain(..) {
                self.sides[event.data.u64() as usize].note(event.flags);
                let mut progress = Progress::HasMore;
                while progress == Progress::HasMore {
                    progress = self.drive();
                }
                if progress != Progress::Waits {
                    return progress;
                }
            }
        }
    }

    fn drive(&mut self) -> Progress {
        let [client, upstream] = &mut self.sides;
        let flows = (&mut self.up, &mut self.down);
        drive((client, upstream), flows, &mut self.tools, &self.meter)
    }

    /// Takes a turn that must find the relay reset, and resets both ends.
    fn ends_by_a_reset(mut self) -> (TcpStream, TcpStream) {
        assert_eq!(self.turn(), Progress::Over(End::Reset));
        for side in &self.sides {
            SockRef::from(&side.socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
        (self.client, self.endpoint)
    }
}

/// Resets the far end of a connection.
fn reset(stream: &mut TcpStream) {
    let gone = std::mem::replace(stream, connection().0);
    SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
}

#[track_caller]
fn expect_reset(stream: &mut TcpStream) {
    let end = stream.read_to_end(&mut Vec::new());
    assert_eq!(end.expect_err("half a stream ended in order").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn half_an_upload_does_not_end_in_order_when_an_answer_meets_the_reset() {
    let mut fixture = Fixture::new();
    fixture.endpoint.write_all(b"progress").unwrap();
    fixture.client.write_all(b"half an upload").unwrap();
    reset(&mut fixture.client);
    expect_reset(&mut fixture.ends_by_a_reset().1);
}

#[test]
fn half_an_answer_does_not_end_in_order_when_an_upload_meets_the_reset() {
    let mut fixture = Fixture::new();
    fixture.client.write_all(b"more of an upload").unwrap();
    fixture.endpoint.write_all(b"half an answer").unwrap();
    reset(&mut fixture.endpoint);
    expect_reset(&mut fixture.ends_by_a_reset().0);
}

#[test]
fn half_an_upload_does_not_end_in_order_when_a_streamed_answer_meets_the_reset() {
    let mut fixture = Fixture::new();
    fixture.endpoint.set_nonblocking(true).unwrap();
    // The client does not read, so that in the end a pipe holds some of the answer.
    for _ in 0..1000 {
        if !fixture.down.holds_bytes() {
            fixture.down.full_reads = SPLICE_AFTER;
        }
        let _ = fixture.endpoint.write(&[7; 65_536]);
        assert_eq!(fixture.turn(), Progress::Waits);
    }
    assert!(fixture.down.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty()));
    fixture.endpoint.set_nonblocking(false).unwrap();
    fixture.client.write_all(b"half an upload").unwrap();
    reset(&mut fixture.client);
    expect_reset(&mut fixture.ends_by_a_reset().1);
}

#[test]
fn a_request_that_ended_before_its_client_was_reset_is_passed_on_whole() {
    let mut fixture = Fixture::new();
    fixture.endpoint.write_all(b"progress").unwrap();
    fixture.client.write_all(b"a request").unwrap();
    fixture.client.shutdown(std::net::Shutdown::Write).unwrap();
    reset(&mut fixture.client);
    let mut request = String::new();
    fixture.ends_by_a_reset().1.read_to_string(&mut request).unwrap();
    assert_eq!(request, "a request");
}

fn send_urgent(stream: &TcpStream) {
    assert_eq!(SockRef::from(stream).send_out_of_band(b"!").unwrap(), 1);
}

#[test]
fn what_follows_an_urgent_byte_does_not_wait() {
    let mut fixture = Fixture::new();
    fixture.client.write_all(b"ab").unwrap();
    send_urgent(&fixture.client);
    fixture.client.write_all(b"cd").unwrap();
    assert_eq!(fixture.turn(), Progress::Waits);
    let mut got = [0; 4];
    fixture.endpoint.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"abcd");
}

#[test]
fn a_stream_goes_on_after_an_urgent_byte() {
    for ends in [false, true] {
        let mut fixture = Fixture::new();
        fixture.up.full_reads = SPLICE_AFTER;
        fixture.client.write_all(&[b'a'; 10_000]).unwrap();
        send_urgent(&fixture.client);
        fixture.client.write_all(&[b'b'; 10_000]).unwrap();
        if ends {
            fixture.client.shutdown(std::net::Shutdown::Write).unwrap();
        }
        assert_eq!(fixture.turn(), Progress::Waits);
        let mut got = vec![0; 20_000];
        fixture.endpoint.read_exact(&mut got).unwrap();
        assert_eq!(got, [[b'a'; 10_000], [b'b'; 10_000]].concat());
        if ends {
            assert_eq!(fixture.endpoint.read(&mut got).unwrap(), 0);
        }
    }
}
