"""A WebSocket through the gate with Python's websockets: echoes until it is cut.

Arguments: the socket's URL, the caller's token. Prints `open` once echoes came back, then waits, and prints how it ended.
"""
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, token = sys.argv[1:]
with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:
    for message in ("hello", "ä" * 1000, b"\x00\xff" * 30_000):
        socket.send(message)
        assert socket.recv(timeout=20) == message
    print("open", flush=True)
    try:
        socket.recv(timeout=20)
        print("a message that nobody sent")
    except ConnectionClosed as closed:
        print("closed", "cleanly" if closed.rcvd else "abruptly")
