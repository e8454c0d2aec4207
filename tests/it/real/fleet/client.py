"""Many clients of one address: client.py ADDRESS PORT COUNT LIFE.

COUNT connections send a line each 0.4 s and check the line that comes back. With a LIFE above 0, each of them ends after
so many seconds, and another one begins. Beside them, 25 short connections begin each second.

The output has `ready` once all have begun, and `rounds N` once each connection that is open has had N answers. The end of
the standard input ends the program, which then prints `result` and a JSON object.
"""

import asyncio
import collections
import json
import random
import sys
import time

ADDRESS, PORT, COUNT, LIFE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])

end = asyncio.Event()
owned, lost, opened, refused, cut = (collections.Counter() for _ in range(5))
reasons = collections.Counter()
rounds = {}


async def greet(reader):
    """Returns the node of a connection that has just begun."""
    greeting = (await asyncio.wait_for(reader.readline(), 15)).split()
    if greeting[:1] != [b"NODE"]:
        raise ConnectionError("it ended without a greeting")
    return greeting[1].decode()


async def open_one(kind):
    """Opens a connection and returns its streams and its node, or None if it is refused, or cut before its node is known."""
    fault = refused
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(ADDRESS, PORT), 15)
        fault = cut
        node = await greet(reader)
    except (OSError, ConnectionError, asyncio.TimeoutError) as error:
        fault[kind] += 1
        reasons[f"{kind}: {type(error).__name__} {error}"[:90]] += 1
        return None
    opened[kind] += 1
    return reader, writer, node


async def exchange(at, reader, writer, until):
    """Sends lines and checks those that come back. Returns false if the connection is lost."""
    count = 0
    while not end.is_set() and time.monotonic() < until:
        line = f"{at} {count} {random.getrandbits(256):x}\n".encode()
        writer.write(line)
        await writer.drain()
        answer = await asyncio.wait_for(reader.readline(), 15)
        if answer != line:
            raise ConnectionError("another line came back" if answer else "it was closed")
        count += 1
        rounds[at] += 1
        await asyncio.sleep(0.4)


async def stay(at):
    rounds[at] = 0
    while not end.is_set():
        connection = await open_one("stay")
        if connection is None:
            break
        reader, writer, node = connection
        owned[node] += 1
        try:
            until = time.monotonic() + (LIFE * random.uniform(0.7, 1.3) if LIFE else 1e9)
            await exchange(at, reader, writer, until)
        except (OSError, ConnectionError, asyncio.TimeoutError) as error:
            lost[node] += 1
            reasons[f"lost: {type(error).__name__} {error}"[:90]] += 1
            break
        finally:
            writer.close()
    rounds.pop(at, None)


async def come_and_go():
    connection = await open_one("short")
    if connection is not None:
        connection[1].close()


async def report():
    """Prints the rounds of the slowest connection."""
    printed = 0
    while not end.is_set():
        slowest = min(rounds.values(), default=printed + 1)
        if slowest > printed:
            printed = slowest
            print("rounds", printed, flush=True)
        await asyncio.sleep(0.1)


async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(end.set)))
    staying = []
    for at in range(COUNT):
        staying.append(asyncio.create_task(stay(at)))
        if at % 10 == 9:
            await asyncio.sleep(0.02)
    while opened["stay"] + refused["stay"] + cut["stay"] < COUNT:
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    reporting = asyncio.create_task(report())
    short = set()
    while not end.is_set():
        task = asyncio.create_task(come_and_go())
        short.add(task)
        task.add_done_callback(short.discard)
        await asyncio.sleep(0.04)
    await asyncio.gather(reporting, *staying, *short)
    print("result", json.dumps(dict(owned=owned, lost=lost, opened=opened, refused=refused, cut=cut, reasons=reasons)), flush=True)


asyncio.run(main())
