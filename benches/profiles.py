#!/usr/bin/env python3
"""Compares two programs of pointsman, such as one of the profile `release` with one of `dist`.

    benches/profiles.py instructions A B          user-space instructions, counted by valgrind
    benches/profiles.py cpu A B [PAIRS]           CPU time of the process, in interleaved pairs

A connection sends a captured hello and reads 64 bytes. A round trip sends 64 bytes and reads them. One worker, one client
at a time, loopback. Needs python3, and valgrind for instructions.
"""
import os, re, signal, socket, statistics, subprocess, sys, tempfile, threading, time

HELLO = open(os.path.join(os.path.dirname(__file__), "../tests/fixtures/hello/openssl-tls13.bin"), "rb").read()
NAME = "mail.example.com"  # the server name in it
TICKS = os.sysconf("SC_CLK_TCK")


def read_exactly(stream, count):
    while count > 0:
        part = stream.recv(count)
        if not part:
            raise EOFError
        count -= len(part)


def serve(stream):
    """A backend: reads the hello, sends 64 bytes, then echoes."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        read_exactly(stream, len(HELLO))
        stream.sendall(b"x" * 64)
        while part := stream.recv(65536):
            stream.sendall(part)
    except (OSError, EOFError):
        pass
    stream.close()


def start_backend():
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


class Proxy:
    def __init__(self, program, prefix=()):
        self.folder = tempfile.TemporaryDirectory()
        self.log = os.path.join(self.folder.name, "log")
        config = os.path.join(self.folder.name, "config.toml")
        with open(config, "w") as file:
            file.write(
                'workers = 1\naccess_log.to = "off"\n[listener.a]\nbind = "127.0.0.1:0"\nprotocol = "tls"\n'
                f'routes = [{{ sni = "{NAME}", pool = "a" }}]\n'
                f'[pool.a]\nbackends = ["127.0.0.1:{BACKEND}"]\nhealth.check = "off"\n'
            )
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([*prefix, program, "run", config], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while not (at := re.search(r"serving .*\[127\.0\.0\.1:(\d+)", self.text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{program} does not serve:\n{self.text()}")
            time.sleep(0.05)
        self.port = int(at[1])

    def text(self):
        with open(self.log) as log:
            return log.read()

    def connect(self):
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.sendall(HELLO)
        read_exactly(stream, 64)
        return stream

    def connections(self, count):
        for _ in range(count):
            self.connect().close()

    def round_trips(self, count):
        with self.connect() as stream:
            for _ in range(count):
                stream.sendall(b"y" * 64)
                read_exactly(stream, 64)

    def cpu(self):
        """Seconds of user and system time so far."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        text = self.text()
        self.folder.cleanup()
        return text


def instructions(program, work, count):
    """Instructions of one operation: the difference of two runs, so that start and end do not count."""

    def total(count):
        proxy = Proxy(program, ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
        proxy.connections(20)
        work(proxy, count)
        return int(re.search(r"Collected : (\d+)", proxy.stop())[1])

    return (total(3 * count) - total(count)) / (2 * count)


def microseconds(program, work, count):
    proxy = Proxy(program)
    proxy.connections(50)
    before = proxy.cpu()
    work(proxy, count)
    spent = proxy.cpu() - before
    proxy.stop()
    return spent / count * 1e6


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in ("instructions", "cpu"):
        sys.exit(__doc__)
    mode, a, b = sys.argv[1:4]
    for label, work, count in (("connection", Proxy.connections, 8000), ("round trip", Proxy.round_trips, 40000)):
        if mode == "instructions":
            one, two = (instructions(program, work, count // 8) for program in (a, b))
            print(f"{label}: {one:.0f} and {two:.0f} instructions, A/B {one / two:.3f}", flush=True)
            continue
        pairs = [
            (microseconds(a, work, count), microseconds(b, work, count))
            for _ in range(int(sys.argv[4]) if len(sys.argv) > 4 else 7)
        ]
        ratios = [one / two for one, two in pairs]
        one, two = (statistics.median(values) for values in zip(*pairs))
        print(
            f"{label}: {one:.1f} and {two:.1f} us, A/B {statistics.median(ratios):.3f} "
            f"[{min(ratios):.2f}-{max(ratios):.2f}]",
            flush=True,
        )


BACKEND = start_backend()
main()
