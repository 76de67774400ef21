//! Frames of HTTP/2, as a table: what the client gets, and the requests that arrive at an endpoint
//! of each kind.
//!
//! Behind each row's frames follows a request for `/end` on stream 101, which is answered only if
//! the connection goes on. The library ends most connections with PROTOCOL_ERROR where RFC 9113
//! names a closer code. An outcome lists streams with their status or, behind `!`, the error
//! that they were reset with, then the error of a GOAWAY, then `end` if that request was answered.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::{
    CONTINUATION, DATA, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, literal,
};
use super::kit::World;
use super::raw_http1::{FLUSH, is as arrived_is, settle};
use super::recorder::{Kind, world};

/// How long is waited for what is expected.
const WAIT: std::time::Duration = crate::support::PATIENCE;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// The stream of the last request.
const LAST: u32 = 101;

/// What the row is about, its frames, the outcome at the client, and the requests that arrive. `?`
/// before these says that the request may be gone before it is sent.
type Row = (&'static str, Vec<u8>, &'static str, &'static str);

type Fields<'f> = &'f [(&'f str, &'f str)];

/// Fields of a request but these, with others behind them.
fn block(without: &[&str], fields: Fields<'_>) -> Vec<u8> {
    let plain = [(":method", "GET"), (":scheme", "http"), (":authority", "a.com"), (":path", "/x")];
    let kept = plain.iter().filter(|(name, _)| !without.contains(name));
    kept.chain(fields).flat_map(|(name, value)| literal(name, value)).collect()
}

/// A GET on stream 1 without some fields and with others.
fn get_but(without: &[&str], fields: Fields<'_>) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(without, fields))
}

fn get(fields: Fields<'_>) -> Vec<u8> {
    get_but(&[], fields)
}

/// A POST on stream 1 with a body to come.
fn post(fields: Fields<'_>) -> Vec<u8> {
    let head = [literal(":method", "POST"), block(&[":method"], fields)].concat();
    frame(HEADERS, END_HEADERS, 1, &head)
}

fn data(flags: u8, payload: &str) -> Vec<u8> {
    frame(DATA, flags, 1, payload.as_bytes())
}

fn trailers(flags: u8, fields: Fields<'_>) -> Vec<u8> {
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    frame(HEADERS, flags | END_HEADERS, 1, &block)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

fn pseudo_fields() -> Vec<Row> {
    let reset = "1:!PROTOCOL_ERROR end";
    vec![
        ("a plain GET", get(&[]), "1:200 end", "GET a.com/x"),
        ("no :method", get_but(&[":method"], &[]), reset, ""),
        ("no :scheme", get_but(&[":scheme"], &[]), reset, ""),
        ("no :path", get_but(&[":path"], &[]), reset, ""),
        ("an empty :path", get_but(&[":path"], &[(":path", "")]), reset, ""),
        ("a relative :path", get_but(&[":path"], &[(":path", "x")]), reset, ""),
        ("* as :path", get_but(&[":path"], &[(":path", "*")]), "1:400 end", ""),
        ("a :path with a space", get_but(&[":path"], &[(":path", "/a b")]), reset, ""),
        ("a :path with NUL", get_but(&[":path"], &[(":path", "/a\0")]), reset, ""),
        ("a :path with CRLF", get_but(&[":path"], &[(":path", "/a\r\nX: y")]), reset, ""),
        ("dot segments", get_but(&[":path"], &[(":path", "/a/../b")]), "1:200 end", "GET a.com/b"),
        ("NUL in escapes", get_but(&[":path"], &[(":path", "/%00")]), "1:400 end", ""),
        (":path twice", get(&[(":path", "/y")]), reset, ""),
        (":method twice", get(&[(":method", "GET")]), reset, ""),
        (":scheme twice", get(&[(":scheme", "http")]), reset, ""),
        (":authority twice", get(&[(":authority", "a.com")]), reset, ""),
        (":path behind a field", get_but(&[":path"], &[("x", "y"), (":path", "/x")]), reset, ""),
        ("an unknown pseudo-field", get(&[(":x", "y")]), "goaway PROTOCOL_ERROR", ""),
        (":status in a request", get(&[(":status", "200")]), reset, ""),
        (
            "an empty :method",
            get_but(&[":method"], &[(":method", "")]),
            "goaway PROTOCOL_ERROR",
            "",
        ),
        (
            "a :method with a space",
            get_but(&[":method"], &[(":method", "G T")]),
            "goaway PROTOCOL_ERROR",
            "",
        ),
        (
            "a :method with CRLF",
            get_but(&[":method"], &[(":method", "GET / HTTP/1.1\r\nX: y\r\n")]),
            "goaway PROTOCOL_ERROR",
            "",
        ),
        (
            "a :method in lower case",
            get_but(&[":method"], &[(":method", "get")]),
            "1:200 end",
            "get a.com/x",
        ),
        (
            "another :scheme",
            get_but(&[":scheme"], &[(":scheme", "https")]),
            "1:200 end",
            "GET a.com/x",
        ),
        ("a :scheme with a space", get_but(&[":scheme"], &[(":scheme", "ht tp")]), reset, ""),
        ("Host alone", get_but(&[":authority"], &[("host", "a.com")]), "1:200 end", "GET a.com/x"),
        ("no host", get_but(&[":authority"], &[]), "1:400 end", ""),
        ("Host like :authority", get(&[("host", "a.com")]), "1:200 end", "GET a.com/x"),
        ("Host unlike :authority", get(&[("host", "b.com")]), "1:400 end", ""),
        ("Host with another port", get(&[("host", "a.com:80")]), "1:400 end", ""),
        ("Host twice", get(&[("host", "a.com"), ("host", "a.com")]), "1:400 end", ""),
        ("an empty Host", get_but(&[":authority"], &[("host", "")]), "1:400 end", ""),
        ("an empty :authority", get_but(&[":authority"], &[(":authority", "")]), reset, ""),
        (
            "a user in :authority",
            get_but(&[":authority"], &[(":authority", "u@a.com")]),
            "1:400 end",
            "",
        ),
        ("a space in :authority", get_but(&[":authority"], &[(":authority", "a b")]), reset, ""),
        (
            "CRLF in :authority",
            get_but(&[":authority"], &[(":authority", "a.com\r\nX: y")]),
            reset,
            "",
        ),
        ("a path in :authority", get_but(&[":authority"], &[(":authority", "a.com/y")]), reset, ""),
        (
            "a port in :authority",
            get_but(&[":authority"], &[(":authority", "a.com:80")]),
            "1:200 end",
            "GET a.com:80/x",
        ),
        ("TRACE", get_but(&[":method"], &[(":method", "TRACE")]), "1:405 end", ""),
        (
            "CONNECT",
            get_but(&[":method", ":scheme", ":path"], &[(":method", "CONNECT")]),
            "1:405 end",
            "",
        ),
        ("CONNECT with a :path", get_but(&[":method"], &[(":method", "CONNECT")]), reset, ""),
        (
            "CONNECT without :authority",
            get_but(&[":method", ":scheme", ":path", ":authority"], &[(":method", "CONNECT")]),
            "1:405 end",
            "",
        ),
        (":protocol with GET", get(&[(":protocol", "websocket")]), reset, ""),
    ]
}

fn fields() -> Vec<Row> {
    let reset = "1:!PROTOCOL_ERROR end";
    let goaway = "goaway PROTOCOL_ERROR";
    vec![
        ("a field", get(&[("x", "y")]), "1:200 end", "GET a.com/x x=y"),
        ("Connection", get(&[("connection", "close")]), reset, ""),
        ("Keep-Alive", get(&[("keep-alive", "5")]), reset, ""),
        ("Proxy-Connection", get(&[("proxy-connection", "x")]), reset, ""),
        ("Transfer-Encoding", get(&[("transfer-encoding", "chunked")]), reset, ""),
        ("Upgrade", get(&[("upgrade", "websocket")]), reset, ""),
        ("TE other than trailers", get(&[("te", "gzip")]), reset, ""),
        ("TE: trailers", get(&[("te", "trailers")]), "1:200 end", "GET a.com/x te=trailers"),
        ("a name in upper case", get(&[("X", "y")]), goaway, ""),
        ("a name with a space", get(&[("x y", "z")]), goaway, ""),
        ("a name with a colon", get(&[("x:y", "z")]), goaway, ""),
        ("a name with NUL", get(&[("x\0", "z")]), goaway, ""),
        ("a name with CRLF", get(&[("x: y\r\nz", "z")]), goaway, ""),
        ("an empty name", get(&[("", "z")]), goaway, ""),
        ("an underscore", get(&[("x_y", "z")]), "1:200 end", "GET a.com/x"),
        ("a value with CRLF", get(&[("x", "y\r\nz: 1")]), goaway, ""),
        ("a value with LF", get(&[("x", "y\nz: 1")]), goaway, ""),
        ("a value with CR", get(&[("x", "y\rz")]), goaway, ""),
        ("a value with NUL", get(&[("x", "y\0")]), goaway, ""),
        ("a value with DEL", get(&[("x", "y\u{7f}")]), goaway, ""),
        ("a value that begins with a space", get(&[("x", " y")]), "1:400 end", ""),
        ("a value that ends with a tab", get(&[("x", "y\t")]), "1:400 end", ""),
        ("an empty value", get(&[("x", "")]), "1:200 end", "GET a.com/x x="),
        ("Expect", get(&[("expect", "100-continue")]), "1:200 end", "GET a.com/x"),
        ("Trailer", get(&[("trailer", "x")]), "1:200 end", "GET a.com/x"),
        ("HTTP2-Settings", get(&[("http2-settings", "AAM")]), "1:200 end", "GET a.com/x"),
        ("Proxy-Authorization", get(&[("proxy-authorization", "x")]), "1:200 end", "GET a.com/x"),
        ("X-Forwarded-For", get(&[("x-forwarded-for", "1.2.3.4")]), "1:200 end", "GET a.com/x"),
        ("padding", padded_head(2), "1:200 end", "GET a.com/x"),
        (
            "a priority",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 3, 9][..], &block(&[], &[])].concat(),
            ),
            "1:200 end",
            "GET a.com/x",
        ),
        ("more padding than frame", padded_head(200), goaway, ""),
        ("a head in two frames", continued(&[1, 1]), "1:200 end", "GET a.com/x"),
        ("a head that goes on on another stream", continued(&[1, 3]), goaway, ""),
        (
            "an index that stands for nothing",
            frame(HEADERS, 5, 1, &[&block(&[], &[])[..], &[0xff, 0x7f]].concat()),
            goaway,
            "",
        ),
        ("index 0", frame(HEADERS, 5, 1, &[&block(&[], &[])[..], &[0x80]].concat()), goaway, ""),
        (
            "a field that breaks off",
            frame(HEADERS, 5, 1, &[&block(&[], &[])[..], &[0, 5, b'x']].concat()),
            goaway,
            "",
        ),
        (
            "a table larger than allowed",
            frame(HEADERS, 5, 1, &[&[0x3f, 0xff, 0xff, 0x7f][..], &block(&[], &[])].concat()),
            goaway,
            "",
        ),
    ]
}

/// A GET whose head says that it has so many bytes of padding, of which there are two.
fn padded_head(padding: u8) -> Vec<u8> {
    let payload = [&[padding][..], &block(&[], &[]), &[0, 0]].concat();
    frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, &payload)
}

/// A GET whose head is in frames of these streams.
fn continued(streams: &[u32; 2]) -> Vec<u8> {
    let block = block(&[], &[]);
    let (first, second) = block.split_at(20);
    let begun = frame(HEADERS, END_STREAM, streams[0], first);
    [begun, frame(CONTINUATION, END_HEADERS, streams[1], second)].concat()
}

fn bodies() -> Vec<Row> {
    let reset = "1:!PROTOCOL_ERROR end";
    let of = |length| post(&[("content-length", length)]);
    let cut = "?cut POST a.com/x";
    vec![
        ("a body", [post(&[]), data(1, "hello")].concat(), "1:200 end", "POST a.com/x *:hello"),
        ("a length", [of("5"), data(1, "hello")].concat(), "1:200 end", "POST a.com/x 5:hello"),
        (
            "two pieces",
            [of("5"), data(0, "he"), data(1, "llo")].concat(),
            "1:200 end",
            "POST a.com/x 5:hello",
        ),
        (
            "an end of its own",
            [of("5"), data(0, "hello"), data(1, "")].concat(),
            "1:200 end",
            "POST a.com/x 5:hello",
        ),
        ("an empty body", [post(&[]), data(1, "")].concat(), "1:200 end", "POST a.com/x *:"),
        (
            "POST without a body",
            get_but(&[":method"], &[(":method", "POST")]),
            "1:200 end",
            "POST a.com/x 0:",
        ),
        (
            "GET with a body",
            [frame(HEADERS, END_HEADERS, 1, &block(&[], &[])), data(1, "hello")].concat(),
            "1:200 end",
            "GET a.com/x *:hello",
        ),
        (
            "padding",
            [post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x02hello\0\0")].concat(),
            "1:200 end",
            "POST a.com/x *:hello",
        ),
        (
            "more padding than data",
            [post(&[]), frame(DATA, END_STREAM | PADDED, 1, b"\x09hello")].concat(),
            "goaway PROTOCOL_ERROR",
            cut,
        ),
        ("less than announced", [of("5"), data(1, "hi")].concat(), reset, cut),
        ("more than announced", [of("5"), data(1, "hello!")].concat(), reset, cut),
        ("nothing of what was announced", get(&[("content-length", "5")]), reset, ""),
        ("a length of nothing", get(&[("content-length", "0")]), "1:200 end", "GET a.com/x 0:"),
        ("a length that is none", [of("x"), data(1, "hello")].concat(), reset, ""),
        ("a signed length", [of("+5"), data(1, "hello")].concat(), reset, ""),
        ("a list of lengths", [of("5, 5"), data(1, "hello")].concat(), reset, ""),
        (
            "two lengths",
            [post(&[("content-length", "5"), ("content-length", "5")]), data(1, "hello")].concat(),
            "1:400 end",
            "",
        ),
        (
            "other lengths",
            [post(&[("content-length", "5"), ("content-length", "6")]), data(1, "hello")].concat(),
            reset,
            "",
        ),
        (
            "trailers",
            [post(&[]), data(0, "hello"), trailers(1, &[("x-sum", "1")])].concat(),
            "1:200 end",
            "POST a.com/x *:hello +x-sum=1",
        ),
        (
            "trailers that are not passed on",
            [
                post(&[]),
                trailers(
                    1,
                    &[
                        ("content-length", "5"),
                        ("x-real-ip", "1"),
                        ("a_b", "1"),
                        ("cookie", "1"),
                        ("host", "b.com"),
                    ],
                ),
            ]
            .concat(),
            "1:200 end",
            "POST a.com/x *:",
        ),
        (
            "trailers with a pseudo-field, which the library leaves out",
            [post(&[]), trailers(1, &[(":path", "/y")])].concat(),
            "1:200 end",
            "POST a.com/x *:",
        ),
        (
            "trailers that do not end the stream",
            [post(&[]), trailers(0, &[("x-sum", "1")])].concat(),
            reset,
            cut,
        ),
        (
            "trailers with Connection",
            [post(&[]), trailers(1, &[("connection", "close")])].concat(),
            reset,
            cut,
        ),
        (
            "trailers in upper case",
            [post(&[]), trailers(1, &[("X", "y")])].concat(),
            "goaway PROTOCOL_ERROR",
            cut,
        ),
        ("a reset", [of("5"), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat(), "end", cut),
    ]
}

fn streams() -> Vec<Row> {
    let goaway = "goaway PROTOCOL_ERROR";
    let size = "goaway FRAME_SIZE_ERROR";
    let open = post(&[]);
    let on_open = |frame: Vec<u8>| [open.clone(), frame].concat();
    let cut = "?cut POST a.com/x";
    vec![
        ("DATA on an idle stream", frame(DATA, 1, 1, b"x"), goaway, ""),
        ("DATA on stream 0", frame(DATA, 1, 0, b"x"), goaway, ""),
        ("HEADERS on stream 0", frame(HEADERS, 5, 0, &block(&[], &[])), goaway, ""),
        ("HEADERS on an even stream", frame(HEADERS, 5, 2, &block(&[], &[])), goaway, ""),
        (
            "HEADERS on an older stream",
            [frame(HEADERS, 4, 5, &block(&[], &[])), get(&[])].concat(),
            goaway,
            "?cut GET a.com/x",
        ),
        ("HEADERS twice", [get(&[]), get(&[])].concat(), "?goaway PROTOCOL_ERROR", "?GET a.com/x"),
        (
            "DATA behind the end",
            [get(&[]), data(1, "x")].concat(),
            "?goaway PROTOCOL_ERROR",
            "?GET a.com/x",
        ),
        (
            "DATA behind a reset",
            on_open([frame(RST_STREAM, 0, 1, &[0; 4]), data(1, "x")].concat()),
            "?1:!STREAM_CLOSED end",
            cut,
        ),
        (
            "a reset of an open upload",
            on_open([data(0, "he"), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat()),
            "end",
            cut,
        ),
        (
            "a reset of an open upload without an error",
            on_open([data(0, "he"), frame(RST_STREAM, 0, 1, &[0; 4])].concat()),
            "end",
            cut,
        ),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), goaway, ""),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), goaway, ""),
        ("a short RST_STREAM", on_open(frame(RST_STREAM, 0, 1, &[0; 3])), goaway, cut),
        ("a window of 0", window(0, 0), goaway, ""),
        ("a stream's window of 0", on_open(window(1, 0)), goaway, cut),
        (
            "a window too large",
            [window(0, 0x7fff_ffff), window(0, 1)].concat(),
            "goaway FLOW_CONTROL_ERROR",
            "",
        ),
        (
            "a stream's window too large",
            on_open([window(1, 0x7fff_ffff), window(1, 1)].concat()),
            "1:!FLOW_CONTROL_ERROR end",
            cut,
        ),
        ("a window of an idle stream", window(1, 1), goaway, ""),
        ("a short WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), goaway, ""),
        ("an unknown setting", setting(0x99, 1), "end", ""),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), goaway, ""),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), goaway, ""),
        ("an acknowledgement with settings", frame(SETTINGS, 1, 0, &[0; 6]), goaway, ""),
        ("ENABLE_PUSH of 2", setting(2, 2), goaway, ""),
        ("INITIAL_WINDOW_SIZE too large", setting(4, 0x8000_0000), goaway, ""),
        ("MAX_FRAME_SIZE too small", setting(5, 100), goaway, ""),
        ("MAX_FRAME_SIZE too large", setting(5, 1 << 24), goaway, ""),
        ("ENABLE_CONNECT_PROTOCOL of 2", setting(8, 2), goaway, ""),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), goaway, ""),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), goaway, ""),
        ("an acknowledgement of no PING", frame(PING, 1, 0, &[0; 8]), "end", ""),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), goaway, ""),
        ("PUSH_PROMISE", on_open(frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])), goaway, cut),
        ("an unknown frame", frame(0xfa, 0xff, 1, b"x"), "end", ""),
        (
            "an unknown frame in a head",
            [frame(HEADERS, 1, 1, &block(&[], &[])), frame(0xfa, 0, 1, b"x")].concat(),
            goaway,
            "",
        ),
        (
            "DATA in a head",
            [frame(HEADERS, 0, 1, &block(&[], &[])), data(1, "x")].concat(),
            goaway,
            "",
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, 4, 1, &block(&[], &[])), goaway, ""),
        ("CONTINUATION of a whole head", on_open(frame(CONTINUATION, 4, 1, &[])), goaway, cut),
        (
            "PRIORITY of a stream on itself",
            on_open(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 9])),
            "1:!PROTOCOL_ERROR end",
            cut,
        ),
        ("a short PRIORITY", frame(PRIORITY, 0, 1, &[0; 4]), goaway, ""),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 9]), goaway, ""),
        ("a frame too large", frame(0xfa, 0, 0, &[0; 16_385]), size, ""),
        (
            "HEADERS too short for their priority",
            frame(HEADERS, 5 | WITH_PRIORITY, 1, &[0; 3]),
            goaway,
            "",
        ),
    ]
}

/// The error codes of RFC 9113 section 7.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// What the server's frames say.
fn told(bytes: &[u8]) -> String {
    let (mut streams, mut goaway, mut end) = (BTreeMap::new(), String::new(), "");
    let mut rest = bytes;
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let (kind, stream) = (rest[3], u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]));
        let Some(payload) = rest.get(9..9 + length) else { break };
        rest = &rest[9 + length..];
        let code = |at: usize| {
            let code = u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            CODES[code as usize]
        };
        match kind {
            HEADERS if stream == LAST => end = "end",
            HEADERS => {
                streams.entry(stream).or_insert_with(|| status(payload));
            }
            RST_STREAM if code(0) != "NO_ERROR" => {
                streams.insert(stream, format!("!{}", code(0)));
            }
            GOAWAY => goaway = format!("goaway {}", code(4)),
            _ => {}
        }
    }
    let streams = streams.into_iter().map(|(stream, what)| format!("{stream}:{what}"));
    let all: Vec<_> = streams.chain([goaway, end.to_owned()]).filter(|s| !s.is_empty()).collect();
    all.join(" ")
}

/// The status at the front of a head that was encoded without a table.
fn status(mut block: &[u8]) -> String {
    // A change of the table's size.
    while block[0] & 0xe0 == 0x20 {
        block = &block[1..];
    }
    if block[0] & 0x80 != 0 {
        let known = ["200", "204", "206", "304", "400", "404", "500"];
        return known[usize::from(block[0] & 0x7f) - 8].to_owned();
    }
    assert_eq!(block[0] & 0x0f, 8, "the name is :status");
    let value = &block[2..2 + usize::from(block[1] & 0x7f)];
    if block[1] & 0x80 == 0 { String::from_utf8(value.to_vec()).unwrap() } else { digits(value) }
}

/// Three digits in Huffman code: those up to 2 have five bits, the others six (RFC 7541 appendix
/// B).
fn digits(bytes: &[u8]) -> String {
    let bits = bytes.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let mut left = 8 * bytes.len();
    let mut text = String::new();
    while text.len() < 3 {
        let five = bits >> (left - 5) & 0x1f;
        let digit = if five < 3 {
            left -= 5;
            five
        } else {
            left -= 6;
            (bits >> left & 0x3f) - 0x19 + 3
        };
        text.push(char::from_digit(digit, 10).unwrap());
    }
    text
}

/// What the client gets for a row; reading ends once that is what was expected.
async fn outcome(world: &World, frames: &[u8], expected: &str) -> String {
    let mut stream = TcpStream::connect(world.http).await.unwrap();
    let path = [(":path", "/end")];
    let last = frame(HEADERS, END_STREAM | END_HEADERS, LAST, &block(&[":path"], &path));
    let bytes = [PREFACE, &setting(1, 0), frames, &last].concat();
    let _ = stream.write_all(&bytes).await;
    let mut read = Vec::new();
    let reading = async {
        while !is(&told(&read), expected) && stream.read_buf(&mut read).await.unwrap_or(0) > 0 {}
    };
    let _ = tokio::time::timeout(WAIT, reading).await;
    told(&read)
}

/// Whether an outcome is the expected one; behind `?` a stream may have been answered before.
fn is(told: &str, expected: &str) -> bool {
    match expected.strip_prefix('?') {
        Some(expected) => told == expected || told.strip_prefix("1:200 ") == Some(expected),
        None => told == expected,
    }
}

async fn check(kind: Kind) {
    let (world, _endpoint, seen) = world(kind, &["--workers", "1"]).await;
    let rows = [pseudo_fields(), fields(), bodies(), streams()].concat();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (what, frames, client, arrived) in rows {
        let got = outcome(&world, &frames, client).await;
        settle(&world, &seen).await;
        let all = seen.take();
        // Streams are independent, so the order is not certain.
        let mut lines: Vec<_> = all.split(" | ").filter(|line| *line != FLUSH).collect();
        let before = lines.len();
        lines.retain(|line| *line != "GET a.com/end");
        let is_last = before - lines.len() == usize::from(got.ends_with("end"));
        let all = lines.join(" | ");
        if !is(&got, client) || !is_last || !arrived_is(&all, arrived) {
            wrong.push(format!("{what}\n  {got:?} {all:?}\n  {client:?} {arrived:?}"));
        }
    }
    assert!(wrong.is_empty(), "got, then expected:\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn raw_frames_towards_http1_endpoints() {
    check(Kind::Http1).await;
}

#[tokio::test]
async fn raw_frames_towards_http2_endpoints() {
    check(Kind::H2c).await;
}
