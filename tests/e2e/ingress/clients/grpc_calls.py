"""gRPC calls of each kind, from a client to a server of the same library.

    grpc_calls.py SERVER INGRESS

Serves at SERVER, calls by way of INGRESS, and ends with 0 if all went as between the two alone.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc

server_address, ingress = sys.argv[1:]
PATIENCE_S = 60
LARGE = bytes(range(256)) * 4096


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    asked = metadata.get("x-ask", "")
    context.set_trailing_metadata([("x-asked", asked), ("x-raw-bin", b"\x00\xff")])
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: \u00e4 %")
    return request


def server_stream(request, context):
    for at in range(int(request)):
        yield b"%d" % at


def client_stream(requests, context):
    return b"%d" % sum(len(request) for request in requests)


def both_stream(requests, context):
    yield from requests


def serve():
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "BothStream": grpc.stream_stream_rpc_method_handler(both_stream),
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", kinds)])
    server.add_insecure_port(server_address)
    server.start()
    return server


def check(what, seen, expected):
    assert seen == expected, f"{what}: {seen!r:.200} and not {expected!r:.200}"


def call(channel):
    one = channel.unary_unary("/test.Test/Unary")
    answer, seen = one.with_call(b"hi", metadata=[("x-ask", "why")], timeout=PATIENCE_S)
    trailers = dict(seen.trailing_metadata())
    got = answer, trailers["x-asked"], trailers["x-raw-bin"]
    check("unary", got, (b"hi", "why", b"\x00\xff"))
    check("unary, 1 MiB", one(LARGE, timeout=PATIENCE_S), LARGE)
    check("unary, empty", one(b"", timeout=PATIENCE_S), b"")
    try:
        one(b"fail", timeout=PATIENCE_S)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        expected = grpc.StatusCode.FAILED_PRECONDITION, "not today: \u00e4 %"
        check("error", (error.code(), error.details()), expected)

    many = channel.unary_stream("/test.Test/ServerStream")
    answers = list(many(b"100", timeout=PATIENCE_S))
    check("server streaming", answers, [b"%d" % at for at in range(100)])
    upload = channel.stream_unary("/test.Test/ClientStream")
    check("client streaming", upload(iter([LARGE] * 5), timeout=PATIENCE_S), b"5242880")

    # Each request waits for the answer to the one before.
    requests = SimpleQueue()
    both = channel.stream_stream("/test.Test/BothStream")
    answers = both(iter(requests.get, None), timeout=PATIENCE_S)
    for at in range(50):
        requests.put(b"%d" % at)
        check("both streaming", next(answers), b"%d" % at)
    requests.put(None)
    check("both streaming, the end", list(answers), [])

    try:
        channel.unary_unary("/test.Test/None")(b"", timeout=PATIENCE_S)
        raise AssertionError("no error")
    except grpc.RpcError as error:
        check("no such method", error.code(), grpc.StatusCode.UNIMPLEMENTED)


running = serve()
call(grpc.insecure_channel(ingress))
running.stop(None)
