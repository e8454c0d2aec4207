"""A backend: names the node of each connection, then sends each line back.

A line `upload N` announces N bytes; the answer is their digest. A line `download N` asks for N bytes.
"""

import asyncio
import hashlib
import sys

BLOCK = 1 << 18


async def receive(reader, count):
    digest = hashlib.blake2b()
    while count:
        block = await reader.read(min(count, BLOCK))
        if not block:
            raise ConnectionError("the client ended early")
        digest.update(block)
        count -= len(block)
    return digest.hexdigest()


async def serve(reader, writer):
    try:
        writer.write(f"NODE {writer.get_extra_info('peername')[0]}\n".encode())
        while line := await reader.readline():
            words = line.split()
            if words[:1] == [b"upload"]:
                line = (await receive(reader, int(words[1]))).encode() + b"\n"
            writer.write(line)
            await writer.drain()
    except (OSError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), backlog=4096, limit=1 << 20)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
