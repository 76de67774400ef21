//! Raw HTTP/1 input, as a table: the answers that the client gets, and the requests that arrive at
//! an endpoint of each kind.
//!
//! In inputs, `~` stands for the end of a line, and a character below U+0100 for that byte. Behind
//! each input follows a request for `/end`, which is answered only if the connection goes on, and
//! arrives only as itself if the input was framed as it should be. Behind an input that begins with
//! `!`, the client closes its side instead. `?` before the requests says that the one which is cut
//! off may be so before it is sent.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::{Speaks, World, eventually, find, get};
use super::recorder::{Kind, Seen, world};
use crate::support::PATIENCE;

/// Input, the answers (a status, or `end` for that to `/end`), and the requests that arrive.
type Row<'r> = (&'r str, &'r str, &'r str);

const END: &str = "GET /end HTTP/1.1~Host: a.com~Connection: close~~";

const REQUEST_LINES: &[Row<'_>] = &[
    ("GET /x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.0~Host: a.com~~", "200", "GET a.com/x"),
    ("GET /x HTTP/1.0~Host: a.com~Connection: keep-alive~~", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.2~Host: a.com~~", "400", ""),
    ("GET /x HTTP/2.0~Host: a.com~~", "400", ""),
    ("GET /x HTTP/0.9~Host: a.com~~", "400", ""),
    ("GET /x HTTP/1.10~Host: a.com~~", "400", ""),
    ("GET /x http/1.1~Host: a.com~~", "400", ""),
    ("GET /x HTTP/1.1 ~Host: a.com~~", "400", ""),
    ("GET /x HTTP/1.1 x~Host: a.com~~", "400", ""),
    ("GET  /x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x  HTTP/1.1~Host: a.com~~", "400", ""),
    (" GET /x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET\t/x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x\tHTTP/1.1~Host: a.com~~", "400", ""),
    ("GET\u{b}/x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET/x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x~Host: a.com~~", "400", ""),
    ("GET /x~~", "400", ""),
    ("GET~~", "400", ""),
    // An empty line before a request is allowed (RFC 9112 section 2.2).
    ("~GET /x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("~~~GET /x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("\nGET /x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    // And a line may end in LF alone.
    ("GET /x HTTP/1.1\nHost: a.com\n\n", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.1~Host: a.com\n~", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.1\rHost: a.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com\r~~", "400", ""),
    ("GET /x HTTP/1.1~\rHost: a.com~~", "400", ""),
    ("get /x HTTP/1.1~Host: a.com~~", "200 end", "get a.com/x"),
    ("M-SEARCH /x HTTP/1.1~Host: a.com~~", "200 end", "M-SEARCH a.com/x"),
    ("G@T /x HTTP/1.1~Host: a.com~~", "400", ""),
    ("G\0T /x HTTP/1.1~Host: a.com~~", "400", ""),
    ("G\u{e9}T /x HTTP/1.1~Host: a.com~~", "400", ""),
    ("TRACE /x HTTP/1.1~Host: a.com~~", "405 end", ""),
    ("CONNECT a.com:80 HTTP/1.1~Host: a.com~~", "405 end", ""),
    ("CONNECT /x HTTP/1.1~Host: a.com~~", "405 end", ""),
    ("PRI * HTTP/2.0~~XX~~", "400", ""),
    ("\u{16}\u{3}\u{1}\0\u{a5}\u{1}\0\0\u{a1}\u{3}\u{3}~~", "400", ""),
    ("!GET /x HTTP/1.1~Host: a.com~", "", ""),
    ("!", "", ""),
    ("GET /x HTTP/1.1~~", "400", ""),
    ("GET /x HTTP/1.0~~", "400", ""),
];

const TARGETS: &[Row<'_>] = &[
    ("OPTIONS * HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET * HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET a.com:80 HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET //a.com/x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/a.com/x"),
    ("GET http://a.com/x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET http://a.com/x HTTP/1.1~Host: b.com~~", "200 end", "GET a.com/x"),
    ("GET http://b.com/x HTTP/1.1~Host: a.com~~", "404 end", ""),
    ("GET http://a.com HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/"),
    ("GET http://a.com?x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/?x"),
    ("GET HTTP://A.com/x HTTP/1.1~Host: a.com~~", "200 end", "GET A.com/x"),
    ("GET http://a.com/x HTTP/1.1~X: y~~", "400", ""),
    ("GET http:///x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET http://user@a.com/x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET http://a.com:99999/x HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x\0y HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x\u{1}y HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x\u{7f}y HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x\ry HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /x?a=b c HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /\u{c3}\u{a9} HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/%C3%A9"),
    ("GET /%c3%a9 HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/%C3%A9"),
    ("GET /%00 HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /%zz HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /% HTTP/1.1~Host: a.com~~", "400", ""),
    ("GET /a/../x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET /../../x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET /a/%2e%2E/x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET /a%2f..%2fx HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/a%2F..%2Fx"),
    ("GET /a//x HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/a/x"),
    ("GET /a\\x HTTP/1.1~Host: a.com~~", "400", ""),
    // What follows `#` is no part of the target.
    ("GET /x#y HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x"),
    ("GET /x?../%2e HTTP/1.1~Host: a.com~~", "200 end", "GET a.com/x?../%2e"),
];

const HOSTS: &[Row<'_>] = &[
    ("GET /x HTTP/1.1~Host: a.com~Host: a.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com~Host: b.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com~host: b.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host:~~", "400", ""),
    ("GET /x HTTP/1.1~Host: ~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com b.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com,b.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com:80~~", "200 end", "GET a.com:80/x"),
    ("GET /x HTTP/1.1~Host: A.COM~~", "200 end", "GET A.COM/x"),
    ("GET /x HTTP/1.1~Host: a.com.~~", "200 end", "GET a.com./x"),
    ("GET /x HTTP/1.1~Host: a.com..~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a..com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: \t a.com \t~~", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.1~Host: a.com:99999~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com:80:80~~", "400", ""),
    ("GET /x HTTP/1.1~Host: user@a.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com/~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com?x~~", "400", ""),
    ("GET /x HTTP/1.1~Host: http://a.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: [::1]~~", "404 end", ""),
    ("GET /x HTTP/1.1~Host: [::1~~", "400", ""),
    ("GET /x HTTP/1.1~Host : a.com~~", "400", ""),
    ("GET /x HTTP/1.1~ Host: a.com~~", "400", ""),
    ("GET /x HTTP/1.1~HOST: a.com~~", "200 end", "GET a.com/x"),
    ("GET /x HTTP/1.1~Host: a.com\0~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com\u{7f}~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a%2ecom~~", "400", ""),
    ("GET /x HTTP/1.1~Host: \u{e9}.com~~", "400", ""),
    ("GET /x HTTP/1.1~Host: a.com~ b.com~~", "400", ""),
];

/// Fields of a POST whose body is `hello`.
const LENGTHS: &[Row<'_>] = &[
    ("Content-Length: 5", "200 end", "POST a.com/x 5:hello"),
    ("Content-Length:5", "200 end", "POST a.com/x 5:hello"),
    ("Content-Length: \t5 \t", "200 end", "POST a.com/x 5:hello"),
    ("Content-Length: 05", "200 end", "POST a.com/x 5:hello"),
    ("Content-Length: +5", "400", ""),
    ("Content-Length: -5", "400", ""),
    ("Content-Length: 5 5", "400", ""),
    ("Content-Length: 5,5", "400", ""),
    ("Content-Length: 5, 5", "400", ""),
    ("Content-Length: 5;", "400", ""),
    ("Content-Length: 5.0", "400", ""),
    ("Content-Length: 0x5", "400", ""),
    ("Content-Length: 1e1", "400", ""),
    ("Content-Length: a", "400", ""),
    ("Content-Length: \"5\"", "400", ""),
    ("Content-Length:", "400", ""),
    ("Content-Length: \u{b2}", "400", ""),
    ("Content-Length: 18446744073709551616", "400", ""),
    ("Content-Length: 99999999999999999999999", "400", ""),
    ("Content-Length: 5~Content-Length: 5", "200 end", "POST a.com/x 5:hello"),
    ("Content-Length: 5~Content-Length: 6", "400", ""),
    ("Content-Length: 0~content-length: 5", "400", ""),
    ("Content-Length : 5", "400", ""),
    ("Content-Length\0: 5", "400", ""),
    ("Content-Length: 5\0", "400", ""),
    ("Content-Length: 5~ 5", "400", ""),
    ("Content-Length: 5~content_length: 6", "200 end", "POST a.com/x 5:hello"),
];

/// Fields of a POST whose body is one chunk, the last.
const CODINGS: &[Row<'_>] = &[
    ("Transfer-Encoding: chunked", "200 end", "POST a.com/x *:"),
    ("Transfer-Encoding: gzip", "400", ""),
    ("Transfer-Encoding: gzip, chunked", "400", ""),
    ("Transfer-Encoding: chunked, gzip", "400", ""),
    ("Transfer-Encoding: chunked, chunked", "400", ""),
    ("Transfer-Encoding: identity", "400", ""),
    ("Transfer-Encoding: identity, chunked", "400", ""),
    ("Transfer-Encoding: xchunked", "400", ""),
    ("Transfer-Encoding: chunkedx", "400", ""),
    ("Transfer-Encoding: chunked;q=1", "400", ""),
    ("Transfer-Encoding: \"chunked\"", "400", ""),
    ("Transfer-Encoding: ,chunked", "400", ""),
    ("Transfer-Encoding: chunked,", "400", ""),
    ("Transfer-Encoding: \u{b}chunked", "400", ""),
    ("Transfer-Encoding: chunked\0", "400", ""),
    ("Transfer-Encoding: chun\u{e9}", "400", ""),
    ("Transfer-Encoding:", "400", ""),
    ("Transfer-Encoding : chunked", "400", ""),
    ("Transfer-Encoding:~ chunked", "400", ""),
    ("Transfer-Encoding: chunked~Transfer-Encoding: chunked", "400", ""),
    ("Transfer-Encoding: identity~Transfer-Encoding: chunked", "400", ""),
    ("Transfer-Encoding: chunked~Transfer-Encoding: x", "400", ""),
    ("Transfer-Encoding: chunked~Content-Length: 5", "200", "POST a.com/x *:"),
    // The chunks count, and the connection ends (RFC 9112 section 6.3).
    ("Content-Length: 5~Transfer-Encoding: chunked", "200", "POST a.com/x *:"),
];

const BODIES: &[Row<'_>] = &[
    ("GET /x HTTP/1.1~Host: a.com~Content-Length: 5~~hello", "200 end", "GET a.com/x 5:hello"),
    ("DELETE /x HTTP/1.1~Host: a.com~Content-Length: 2~~ok", "200 end", "DELETE a.com/x 2:ok"),
    ("POST /x HTTP/1.1~Host: a.com~~", "200 end", "POST a.com/x 0:"),
    ("POST /x HTTP/1.1~Host: a.com~Content-Length: 0~~", "200 end", "POST a.com/x 0:"),
    ("GET /x HTTP/1.1~Host: a.com~Content-Length: 0~~", "200 end", "GET a.com/x 0:"),
    ("POST /x HTTP/1.0~Host: a.com~Content-Length: 5~~hello", "200", "POST a.com/x 5:hello"),
    // What follows the announced bytes is the next request.
    (
        "POST /x HTTP/1.1~Host: a.com~Content-Length: 3~~hello",
        "200 end",
        "POST a.com/x 3:hel | loGET a.com/end",
    ),
    ("!POST /x HTTP/1.1~Host: a.com~Content-Length: 100~~hello", "400", "?cut POST a.com/x 100:"),
    (
        "POST /x HTTP/1.1~Host: a.com~Transfer-Encoding: chunked~~5~hello~0~~",
        "200 end",
        "POST a.com/x *:hello",
    ),
    (
        "POST /x HTTP/1.1~Host: a.com~transfer-encoding: CHUNKED~~5~hello~0~~",
        "200 end",
        "POST a.com/x *:hello",
    ),
    (
        "GET /x HTTP/1.1~Host: a.com~Transfer-Encoding: chunked~~5~hello~0~~",
        "200 end",
        "GET a.com/x *:hello",
    ),
    (
        "POST /x HTTP/1.1~Host: a.com~Transfer-Encoding: \t chunked \t~~5~hello~0~~",
        "200 end",
        "POST a.com/x *:hello",
    ),
    ("POST /x HTTP/1.0~Host: a.com~Transfer-Encoding: chunked~~0~~", "400", ""),
    // A field with an underscore means nothing: the chunks are no request either.
    ("POST /x HTTP/1.1~Host: a.com~Transfer_Encoding: chunked~~0~~", "200 400", "POST a.com/x 0:"),
    ("POST /x HTTP/1.1~Host: a.com~TE: chunked~~", "200 end", "POST a.com/x 0:"),
];

/// The request may have begun before its body turned out to be none.
const CUT: &str = "?cut POST a.com/x *:";

/// Bodies in chunks.
const CHUNKS: &[Row<'_>] = &[
    ("5~hello~0~~", "200 end", "POST a.com/x *:hello"),
    ("2~he~3~llo~0~~", "200 end", "POST a.com/x *:hello"),
    ("05~hello~0~~", "200 end", "POST a.com/x *:hello"),
    ("A~0123456789~0~~", "200 end", "POST a.com/x *:0123456789"),
    ("a~0123456789~00~~", "200 end", "POST a.com/x *:0123456789"),
    ("5;ext=1~hello~0~~", "200 end", "POST a.com/x *:hello"),
    ("5;ext=\"a b\"~hello~0;last~~", "200 end", "POST a.com/x *:hello"),
    ("5 ~hello~0~~", "200 end", "POST a.com/x *:hello"),
    ("5~hello\nX~0~~", "400", CUT),
    ("5\nhello\n0\n\n", "400", CUT),
    ("5;a\nhello~0~~", "400", CUT),
    ("5;a\rb~hello~0~~", "400", CUT),
    ("5~helloX~0~~", "400", CUT),
    ("5~hell~0~~", "400", CUT),
    ("~5~hello~0~~", "400", CUT),
    ("-5~hello~0~~", "400", CUT),
    ("+5~hello~0~~", "400", CUT),
    ("0x5~hello~0~~", "400", CUT),
    ("5g~hello~0~~", "400", CUT),
    (" 5~hello~0~~", "400", CUT),
    ("\u{b2}~he~0~~", "400", CUT),
    ("fffffffffffffffff~hello~0~~", "400", CUT),
    ("10000000000000005~hello~0~~", "400", CUT),
    ("5~hello~0~X-Sum: 1~~", "200 end", "POST a.com/x *:hello +x-sum=1"),
    ("0~X-Sum: 1~X-Two: 2~~", "200 end", "POST a.com/x *: +x-sum=1 +x-two=2"),
    ("0~Content-Length: 5~~", "200 end", "POST a.com/x *:"),
    ("0~Transfer-Encoding: gzip~Host: b.com~Authorization: x~~", "200 end", "POST a.com/x *:"),
    ("0~X-Forwarded-For: 1~X-Real-IP: 1~X-Request-ID: 1~a_b: 1~~", "200 end", "POST a.com/x *:"),
    ("0~X-Hop: 1~Proxy-Authorization: 1~~", "200 end", "POST a.com/x *:"),
    ("0~X\0: 1~~", "400", CUT),
    ("0~X: 1\0~~", "400", CUT),
    ("0~NoColon~~", "400", CUT),
    ("0~X Y: 1~~", "400", CUT),
    ("0~X: 1~ folded~~", "400", CUT),
];

/// Fields of a GET.
const FIELDS: &[Row<'_>] = &[
    ("X: y", "200 end", "GET a.com/x x=y"),
    ("X:y", "200 end", "GET a.com/x x=y"),
    ("X: \t y \t", "200 end", "GET a.com/x x=y"),
    ("X:", "200 end", "GET a.com/x x="),
    ("X: a~X: b", "200 end", "GET a.com/x x=a x=b"),
    ("X: a\tb", "200 end", "GET a.com/x x=a\tb"),
    ("X: \u{e9}", "200 end", "GET a.com/x x=\u{e9}"),
    ("!#$%&'*+-.^`|9z: y", "200 end", "GET a.com/x !#$%&'*+-.^`|9z=y"),
    ("X: a\nY: b", "200 end", "GET a.com/x x=a y=b"),
    ("X: a~ b", "400", ""),
    ("X: a~\tb", "400", ""),
    ("X : y", "400", ""),
    ("X\t: y", "400", ""),
    ("X Y: z", "400", ""),
    ("X\0: y", "400", ""),
    ("X: y\0", "400", ""),
    ("X: y\0z", "400", ""),
    ("X: a\rb", "400", ""),
    ("X: a\r\rY: b", "400", ""),
    ("X: \u{1}", "400", ""),
    ("X: \u{7f}", "400", ""),
    (": y", "400", ""),
    ("NoColon", "400", ""),
    ("X(Y): z", "400", ""),
    ("X@: z", "400", ""),
    ("X\u{e9}: z", "400", ""),
    ("\u{7f}X: z", "400", ""),
    ("x_y: 1~X-Y: 2", "200 end", "GET a.com/x x-y=2"),
    ("Connection: close", "200", "GET a.com/x"),
    ("Connection: close, X-T~X-T: 1", "200", "GET a.com/x"),
    ("Connection: x-t, keep-alive~X-T: 1~Y: 2", "200 end", "GET a.com/x y=2"),
    ("Connection: \u{e9}, x-t~X-T: 1~Y: 2", "200 end", "GET a.com/x y=2"),
    ("Connection: host, x-forwarded-for", "200 end", "GET a.com/x"),
    ("Keep-Alive: 5~Proxy-Connection: x~Proxy-Authorization: y", "200 end", "GET a.com/x"),
    ("TE: trailers", "200 end", "GET a.com/x te=trailers"),
    ("TE: gzip, trailers;q=0", "200 end", "GET a.com/x"),
    ("TE: gzip", "200 end", "GET a.com/x"),
    ("Trailer: x", "200 end", "GET a.com/x"),
    ("Upgrade: websocket", "200 end", "GET a.com/x"),
    ("Connection: Upgrade~Upgrade: TLS/1.0", "200 end", "GET a.com/x"),
    ("Expect: 100-continue", "200 end", "GET a.com/x"),
    ("X-Forwarded-For: 1.2.3.4~Forwarded: for=1", "200 end", "GET a.com/x"),
    (
        "Upgrade: h2c~HTTP2-Settings: AAMAAABkAAQAAP__~Connection: Upgrade, HTTP2-Settings",
        "200 end",
        "GET a.com/x",
    ),
];

const PIPELINES: &[Row<'_>] = &[
    (
        "GET /1 HTTP/1.1~Host: a.com~~GET /2 HTTP/1.1~Host: a.com~~",
        "200 200 end",
        "GET a.com/1 | GET a.com/2",
    ),
    (
        "POST /1 HTTP/1.1~Host: a.com~Content-Length: 2~~okGET /2 HTTP/1.1~Host: a.com~~",
        "200 200 end",
        "POST a.com/1 2:ok | GET a.com/2",
    ),
    (
        "POST /1 HTTP/1.1~Host: a.com~Transfer-Encoding: chunked~~2~ok~0~~\
         GET /2 HTTP/1.1~Host: a.com~~",
        "200 200 end",
        "POST a.com/1 *:ok | GET a.com/2",
    ),
    ("HEAD /1 HTTP/1.1~Host: a.com~~", "200 end", "HEAD a.com/1"),
    ("GET /1 HTTP/1.1~Host: a.com~~\u{16}\u{3}\u{1}~~", "200 400", "GET a.com/1"),
    (
        "GET /1 HTTP/1.1~Host: a.com~~~~GET /2 HTTP/1.1~Host: a.com~~",
        "200 200 end",
        "GET a.com/1 | GET a.com/2",
    ),
    (
        "GET /1 HTTP/1.1~Host: a.com~Connection: close~~GET /2 HTTP/1.1~Host: a.com~~",
        "200",
        "GET a.com/1",
    ),
    ("GET /1 HTTP/1.1~Host: b.com~~GET /2 HTTP/1.1~Host: a.com~~", "404 200 end", "GET a.com/2"),
];

/// All rows.
fn rows() -> Vec<(String, &'static str, &'static str)> {
    let get = "GET /x HTTP/1.1~Host: a.com~";
    let post = "POST /x HTTP/1.1~Host: a.com~";
    let chunked = "POST /x HTTP/1.1~Host: a.com~Connection: x-hop~Transfer-Encoding: chunked~~";
    let tables = [
        (REQUEST_LINES, "", ""),
        (TARGETS, "", ""),
        (HOSTS, "", ""),
        (BODIES, "", ""),
        (PIPELINES, "", ""),
        (LENGTHS, post, "~~hello"),
        (CODINGS, post, "~~0~~"),
        (CHUNKS, chunked, ""),
        (FIELDS, get, "~~"),
    ];
    let rows = tables.into_iter().flat_map(|(rows, before, behind)| {
        rows.iter().map(move |(input, client, arrived)| {
            (format!("{before}{input}{behind}"), *client, *arrived)
        })
    });
    rows.collect()
}

fn bytes_of(text: &str) -> Vec<u8> {
    let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap());
    bytes.flat_map(|b| if b == b'~' { vec![b'\r', b'\n'] } else { vec![b] }).collect()
}

/// The answers in these bytes: a status each, or `end` for that to `/end`.
fn answers(mut bytes: &[u8]) -> String {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            all.push(format!("{:?}", String::from_utf8_lossy(bytes)));
            break;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        bytes = &bytes[end + 4..];
        let length = super::kit::field(&head, "content-length").unwrap_or("0");
        bytes = bytes.get(length.parse().unwrap()..).expect("the whole body");
        let is_end = head.contains("\r\nx-at: /end");
        all.push(if is_end { "end".to_owned() } else { head[9..12].to_owned() });
    }
    all.join(" ")
}

/// What the client gets for a row.
async fn outcome(world: &World, input: &str) -> String {
    let stream = TcpStream::connect(world.http).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    match input.strip_prefix('!') {
        Some(input) => {
            let _ = writer.write_all(&bytes_of(input)).await;
            let _ = writer.shutdown().await;
        }
        None => drop(writer.write_all(&bytes_of(&format!("{input}{END}"))).await),
    }
    let mut read = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut read));
    let ended = reading.await.is_ok();
    assert!(ended, "{input:?}: open after {:?}", String::from_utf8_lossy(&read));
    answers(&read)
}

async fn check(kind: Kind) {
    let (world, _endpoint, seen) = world(kind, &["--workers", "1"]).await;
    let rows = rows();
    assert!(rows.len() >= 150, "{} rows", rows.len());
    let mut wrong = Vec::new();
    for (input, client, arrived) in rows {
        let got = outcome(&world, &input).await;
        let is_ended = got.split(' ').any(|answer| answer == "end");
        let expected = match (is_ended && !arrived.contains("/end"), arrived) {
            (true, "") => "GET a.com/end".to_owned(),
            (true, _) => format!("{arrived} | GET a.com/end"),
            (false, _) => arrived.to_owned(),
        };
        settle(&world, &seen).await;
        let all = seen.take();
        let all = all.strip_suffix(FLUSH).unwrap().trim_end_matches(" | ");
        if got != client || !is(all, &expected) {
            wrong.push(format!("{input:?}\n  {got:?} {all:?}\n  {client:?} {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "got, then expected:\n{}", wrong.join("\n"));
}

pub(super) const FLUSH: &str = "GET a.com/flush";

/// Waits until all has arrived that was sent before, also what the client was not answered.
pub(super) async fn settle(world: &World, seen: &Seen) {
    assert_eq!(get(world, Speaks::Http1, "a.com", "/flush").await.status, 200);
    eventually("all has arrived", || async { seen.settled() }).await;
}

/// Whether what has arrived is what was expected.
pub(super) fn is(all: &str, expected: &str) -> bool {
    match expected.strip_prefix('?') {
        Some(cut) => all.is_empty() || all.starts_with(cut) && !all.contains(" | "),
        None => all == expected,
    }
}

#[tokio::test]
async fn raw_input_towards_http1_endpoints() {
    check(Kind::Http1).await;
}

#[tokio::test]
async fn raw_input_towards_http2_endpoints() {
    check(Kind::H2c).await;
}
