"""Sends a TCP packet of no connection: stray.py SOURCE ADDRESS PORT. It ends with 0 once a reset has come back."""

import socket
import struct
import sys

source, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
OWN_PORT = 40123


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


ends = socket.inet_aton(source) + socket.inet_aton(address)
ACK, RST = 0x10, 0x04
header = struct.pack("!HHIIBBHHH", OWN_PORT, port, 1000, 2000, 5 << 4, ACK, 1000, 0, 0)
value = checksum(ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header)) + header)
header = header[:16] + struct.pack("!H", value) + header[18:]

raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.settimeout(15)
raw.sendto(header, (address, 0))
while True:
    packet = raw.recv(4096)
    segment = packet[(packet[0] & 15) * 4:]
    from_port, to_port = struct.unpack("!HH", segment[:4])
    if (from_port, to_port) == (port, OWN_PORT) and segment[13] & RST:
        print("reset")
        break
