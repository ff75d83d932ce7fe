"""A worker of its own that breaks the worker link in one way: the first argument says which."""

import json
import socket
import struct
import sys

mode = sys.argv[1]
link = socket.socket(fileno=0)


def send(body, length=None):
    link.sendall(struct.pack(">I", len(body) if length is None else length) + body)


def tell(**frame):
    send(json.dumps(frame).encode())


def receive():
    head = link.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        sys.exit(0)
    return json.loads(link.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))


def broken(run):
    if mode == "unknown":
        tell(t="gossip", run=run)
    elif mode == "no-json":
        send(b"nope!")
    elif mode == "truncated":
        send(b'{"t":"done"', length=100)
        sys.exit(0)
    elif mode == "leaves":
        sys.exit(0)
    elif mode == "wrong-run":
        tell(t="chunk", run=999, value=1)
        tell(t="done", run=999, value="not mine", ms=1)
        tell(t="done", run=run, value="mine", ms=1)
    elif mode == "twice":
        tell(t="done", run=run, value="first", ms=1)
        tell(t="done", run=run, value="second", ms=1)
        tell(t="error", run=run, message="third")


assert receive()["t"] == "load"
if mode == "start-garbage":
    link.sendall(b"Loading the model, please wait...\n")
elif mode == "start-oversized":
    send(b"", length=0xFFFFFFFF)
elif mode == "protocol":
    tell(t="ready", protocol=99)
else:
    tell(t="ready", protocol=1)
while True:
    frame = receive()
    if frame["t"] == "run":
        broken(frame["run"])
    elif frame["t"] == "exit":
        sys.exit(0)
