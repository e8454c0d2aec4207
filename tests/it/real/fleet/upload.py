"""Sends blocks of bytes through one connection: upload.py ADDRESS PORT MIB.

Each line of the standard input sends so many MiB. The output has the node of the connection, then a line `sent` with the
rate in MiB/s for each block, whose digest the backend has found.
"""

import hashlib
import os
import socket
import sys
import time

MIB = int(sys.argv[3])

connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
answers = connection.makefile("rb")
print(answers.readline().decode().strip(), flush=True)
block = os.urandom(1 << 20)
for _ in sys.stdin:
    digest = hashlib.blake2b()
    begin = time.monotonic()
    connection.sendall(b"upload %d\n" % (MIB << 20))
    for _ in range(MIB):
        connection.sendall(block)
        digest.update(block)
    answer = answers.readline().decode().strip()
    if answer != digest.hexdigest():
        sys.exit(f"the digest is {answer!r}")
    print(f"sent {MIB / (time.monotonic() - begin):.0f}", flush=True)
