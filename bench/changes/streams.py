"""Transfers that last: a WebSocket, a gRPC stream, an upload and a download.

    streams.py serve ADDRESS PORT_HTTP1 PORT_H2C
    streams.py use PORT_HTTP PORT_HTTPS HOST DOWNLOAD_BYTES BYTES_PER_SECOND

`serve` is the endpoint, `use` the clients. They go on until SIGTERM, then end what they have begun
and say what was transferred. Both sides make the same random bytes and compare every byte with
them. Exit 1 if a transfer broke off or had a wrong byte.
"""

import asyncio
import base64
import hashlib
import random
import signal
import ssl
import struct
import sys
import time

import h2.config
import h2.connection
import h2.events

PIECE = 8192
PAUSE_S = 0.1
LARGEST_MESSAGE = 20_000
# What a socket of the download may hold, so that the reader's pace is felt at the endpoint.
RECEIVE_BYTES = 64 << 10


def pieces(seed):
    source = random.Random(seed)
    while True:
        yield source.randbytes(PIECE)


class Expected:
    """Compares bytes with those that `pieces` makes."""

    def __init__(self, seed):
        self.source = pieces(seed)
        self.ahead = b""
        self.count = 0

    def take(self, data):
        while len(self.ahead) < len(data):
            self.ahead += next(self.source)
        if self.ahead[: len(data)] != data:
            raise ValueError(f"wrong bytes within {len(data)} after {self.count}")
        self.ahead = self.ahead[len(data) :]
        self.count += len(data)


# The endpoint, HTTP/1.1


async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return first, fields


async def read_chunks(reader):
    while True:
        size = int(await reader.readline(), 16)
        data = await reader.readexactly(size)
        await reader.readline()
        if size == 0:
            return
        yield data


def accept_key(key):
    digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()


async def read_frame(reader):
    """One frame of a WebSocket: operation and payload."""
    first, second = await reader.readexactly(2)
    length = second & 127
    if length == 126:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack("!Q", await reader.readexactly(8))
    mask = await reader.readexactly(4) if second & 128 else None
    payload = await reader.readexactly(length)
    return first & 15, masked(payload, mask) if mask else payload


def masked(payload, mask):
    length = len(payload)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(length, "big")


def frame(operation, payload, mask=None):
    flag, length = 128 if mask else 0, len(payload)
    head = bytes([128 | operation])
    if length < 126:
        head += bytes([flag | length])
    elif length < 1 << 16:
        head += struct.pack("!BH", flag | 126, length)
    else:
        head += struct.pack("!BQ", flag | 127, length)
    return head + (mask + masked(payload, mask) if mask else payload)


async def serve_http1(reader, writer):
    try:
        while True:
            first, fields = await read_head(reader)
            path = first.split(" ")[1]
            if path.startswith("/socket"):
                await serve_socket(reader, writer, fields)
                break
            if path.startswith("/upload"):
                await serve_upload(reader, writer)
            elif path.startswith("/download/"):
                await serve_download(writer, int(path.rsplit("/", 1)[1]))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve_socket(reader, writer, fields):
    key = accept_key(fields["sec-websocket-key"])
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-accept: %s\r\n\r\n" % key.encode()
    )
    while True:
        operation, payload = await read_frame(reader)
        writer.write(frame(operation, payload))
        await writer.drain()
        if operation == 8:
            return


async def serve_upload(reader, writer):
    expected = Expected("upload")
    async for data in read_chunks(reader):
        expected.take(data)
    body = b"%d" % expected.count
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def serve_download(writer, length):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length)
    for piece in pieces("download"):
        writer.write(piece[:length])
        await writer.drain()
        length -= len(piece[:length])
        if length == 0:
            return


# HTTP/2 on both sides


class Http2:
    """A connection, whose data of each stream goes out as windows allow."""

    def __init__(self, reader, writer, is_client):
        config = h2.config.H2Configuration(client_side=is_client, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.reader, self.writer = reader, writer
        self.waiting = {}

    async def events(self):
        self.flush()
        while data := await self.reader.read(1 << 16):
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                yield event
            self.flush()
            await self.writer.drain()

    def send(self, stream, data, trailers=None, ends=False):
        queue = self.waiting.setdefault(stream, [b"", None, False])
        queue[0] += data
        queue[1] = trailers or queue[1]
        queue[2] = queue[2] or ends
        self.flush()

    def flush(self):
        for stream, (data, trailers, ends) in list(self.waiting.items()):
            window = self.h2.local_flow_control_window(stream)
            while data and window > 0:
                size = min(len(data), window, self.h2.max_outbound_frame_size)
                self.h2.send_data(stream, data[:size])
                data = data[size:]
                window = self.h2.local_flow_control_window(stream)
            self.waiting[stream][0] = data
            if not data and trailers:
                self.h2.send_headers(stream, trailers, end_stream=True)
            elif not data and ends:
                self.h2.end_stream(stream)
            if not data and (trailers or ends):
                del self.waiting[stream]
        self.writer.write(self.h2.data_to_send())


async def serve_http2(reader, writer):
    connection = Http2(reader, writer, False)
    try:
        async for event in connection.events():
            if isinstance(event, h2.events.RequestReceived):
                fields = [(":status", "200"), ("content-type", "application/grpc")]
                connection.h2.send_headers(event.stream_id, fields)
            elif isinstance(event, h2.events.DataReceived):
                connection.send(event.stream_id, event.data)
            elif isinstance(event, h2.events.StreamEnded):
                connection.send(event.stream_id, b"", trailers=[("grpc-status", "0")])
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(address, port_http1, port_h2c):
    await asyncio.start_server(serve_http1, address, int(port_http1))
    await asyncio.start_server(serve_http2, address, int(port_h2c))
    await asyncio.Event().wait()


# The clients


class Clients:
    def __init__(self, port_http, port_https, host, download_bytes, rate):
        self.ports = int(port_http), int(port_https)
        self.host = host
        self.download_bytes, self.rate = int(download_bytes), int(rate)
        self.stop = asyncio.Event()
        self.begun = time.monotonic()

    async def connect(self, tls=None, **options):
        if tls is None:
            return await asyncio.open_connection("127.0.0.1", self.ports[0], **options)
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([tls])
        return await asyncio.open_connection(
            "127.0.0.1", self.ports[1], ssl=context, server_hostname=self.host, **options
        )

    async def pause(self, seconds=PAUSE_S):
        """True when it is time to end."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
            return True
        except asyncio.TimeoutError:
            return False

    def seconds(self):
        return time.monotonic() - self.begun

    async def socket(self):
        reader, writer = await self.connect("http/1.1")
        key = base64.b64encode(random.randbytes(16)).decode()
        writer.write(
            f"GET /socket HTTP/1.1\r\nhost: {self.host}\r\nconnection: upgrade\r\n"
            f"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            f"sec-websocket-key: {key}\r\n\r\n".encode()
        )
        first, fields = await read_head(reader)
        if " 101 " not in first or fields["sec-websocket-accept"] != accept_key(key):
            raise ValueError(f"answered {first}")
        messages = total = 0
        while not await self.pause():
            sent = random.randbytes(random.randint(1, LARGEST_MESSAGE))
            writer.write(frame(2, sent, random.randbytes(4)))
            if await read_frame(reader) != (2, sent):
                raise ValueError(f"message {messages} came back changed")
            messages, total = messages + 1, total + len(sent)
        writer.write(frame(8, b"\x03\xe8", random.randbytes(4)))
        if await read_frame(reader) != (8, b"\x03\xe8"):
            raise ValueError("not closed as asked")
        return f"{messages} messages there and back, {total} bytes each way"

    async def grpc(self):
        connection = Http2(*await self.connect("h2"), True)
        stream = connection.h2.get_next_available_stream_id()
        head = {
            ":method": "POST",
            ":scheme": "https",
            ":authority": self.host,
            ":path": "/grpc.Echo/Stream",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        connection.h2.send_headers(stream, list(head.items()))
        counts = [0, 0]
        sending = asyncio.create_task(self.send_messages(connection, stream, counts))
        expected, status = Expected("grpc"), None
        async for event in connection.events():
            if isinstance(event, h2.events.DataReceived):
                expected.take(event.data)
            elif isinstance(event, h2.events.TrailersReceived):
                status = dict(event.headers)["grpc-status"]
            elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                raise ValueError(f"{event}")
            elif isinstance(event, h2.events.StreamEnded):
                break
        if not sending.done() or status != "0" or expected.count != counts[1]:
            raise ValueError(f"ended by {status} after {expected.count} of {counts[1]} bytes")
        return f"{counts[0]} pieces there and back, {counts[1]} bytes each way, grpc-status 0"

    async def send_messages(self, connection, stream, counts):
        for piece in pieces("grpc"):
            if await self.pause():
                break
            counts[0], counts[1] = counts[0] + 1, counts[1] + len(piece)
            connection.send(stream, piece)
        connection.send(stream, b"", ends=True)

    async def upload(self):
        reader, writer = await self.connect()
        writer.write(
            f"POST /upload HTTP/1.1\r\nhost: {self.host}\r\n"
            f"transfer-encoding: chunked\r\n\r\n".encode()
        )
        total = 0
        answer = asyncio.create_task(read_head(reader))
        for piece in pieces("upload"):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            total += len(piece)
            if answer.done():
                raise ValueError(f"answered early: {answer.result()}")
            if await self.pause():
                break
        writer.write(b"0\r\n\r\n")
        first, fields = await answer
        body = await reader.readexactly(int(fields["content-length"]))
        if " 200 " not in first or int(body) != total:
            raise ValueError(f"answered {first} {body[:200]}")
        return f"{total} bytes"

    async def download(self):
        reader, writer = await self.connect("http/1.1", limit=RECEIVE_BYTES)
        path = f"/download/{self.download_bytes}"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: {self.host}\r\n\r\n".encode())
        first, _ = await read_head(reader)
        if " 200 " not in first:
            raise ValueError(f"answered {first}")
        expected = Expected("download")
        while expected.count < self.download_bytes:
            data = await reader.read(PIECE)
            if not data:
                raise ValueError(f"ended after {expected.count} bytes")
            expected.take(data)
            await self.pause(len(data) / self.rate)
            if expected.count == self.download_bytes and not self.stop.is_set():
                raise ValueError("ended before it was time: more bytes are needed")
        return f"{expected.count} bytes"

    async def tell(self, name, transfer):
        try:
            text = await transfer
        except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
            print(f"{name}: FAILED after {self.seconds():.0f} s: {error!r}", flush=True)
            raise SystemExit(1) from error
        print(f"{name}: {text}, over {self.seconds():.0f} s", flush=True)

    async def run(self):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        await asyncio.gather(
            self.tell("WebSocket over TLS", self.socket()),
            self.tell("gRPC stream over HTTP/2 and TLS", self.grpc()),
            self.tell("upload over HTTP/1.1", self.upload()),
            self.tell("download over TLS", self.download()),
        )


async def use(*arguments):
    await Clients(*arguments).run()


asyncio.run({"serve": serve, "use": use}[sys.argv[1]](*sys.argv[2:]))
