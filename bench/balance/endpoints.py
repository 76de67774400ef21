"""Endpoints for balance.sh: HTTP/1.1 servers that answer after a delay, or come and go.

    endpoints.py COUNT PORT DELAY_MS SLOW_MS FLAP_S

Serves 127.1.0.1 to 127.1.0.COUNT. The first answers after SLOW_MS, the others after DELAY_MS. With
FLAP_S above 0 the first serves for so long, then closes each connection without an answer for as
long, and so on. `GET /count` is answered at once with the number of all other requests so far.
"""

import asyncio
import sys
import time

count, port, delay_ms, slow_ms = (int(argument) for argument in sys.argv[1:5])
flap = float(sys.argv[5])
begun = time.monotonic()
asked = 0


def answer(body):
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def serve(reader, writer, number):
    global asked
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /count "):
                writer.write(answer(b"%d" % asked))
                continue
            asked += 1
            is_down = flap > 0 and number == 1 and int((time.monotonic() - begun) / flap) % 2 == 1
            if is_down:
                break
            await asyncio.sleep((slow_ms if number == 1 else delay_ms) / 1000)
            writer.write(answer(b"hello\n"))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    def of(number):
        return lambda reader, writer: serve(reader, writer, number)

    for number in range(1, count + 1):
        await asyncio.start_server(of(number), f"127.1.0.{number}", port, backlog=1024)
    await asyncio.Event().wait()


asyncio.run(main())
