"""Clients that add to rows of a table through whatever node takes them, and reconnect when a node says that it stops. Ends with status 1 if any statement failed.

Usage: reconnecting.py STOPFILE CLIENTS TABLE DATABASE USER PORT...   The server must trust the user. Ends when STOPFILE is there.
"""

import os
import random
import socket
import struct
import sys
import threading
import time

stop, clients, table, database, user = sys.argv[1:6]
ports = [int(port) for port in sys.argv[6:]]
lock = threading.Lock()
acknowledged, reconnects, longest, failures = 0, 0, 0.0, []


class Stopping(Exception):
    """The server has said that it goes, before it began what was asked (57P01)."""


class Connection:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = self.socket.makefile("rb")
        words = ["user", user or "postgres", "database", database or "postgres", "application_name", "reconnecting", ""]
        body = struct.pack("!I", 196608) + b"".join(word.encode() + b"\0" for word in words)
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.until_ready()

    def query(self, sql):
        body = sql.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        return self.until_ready()

    def until_ready(self):
        """The command tags up to ReadyForQuery."""
        tags, error = [], None
        while True:
            head = self.input.read(5)
            if len(head) < 5:
                raise error or ConnectionError("the connection was closed without a word")
            kind, body = head[:1], self.input.read(struct.unpack("!I", head[1:])[0] - 4)
            if kind == b"E":
                fields = dict((field[:1], field[1:].decode()) for field in body.split(b"\0") if field)
                words = f"{fields[b'C']}: {fields[b'M']}"
                error = Stopping(words) if fields[b"C"] == "57P01" else RuntimeError(words)
            elif kind == b"R" and body[:4] != b"\0\0\0\0":
                raise RuntimeError("the server asks for a password")
            elif kind == b"C":
                tags.append(body.rstrip(b"\0").decode())
            elif kind == b"Z":
                if error:
                    raise error
                return tags


def connect():
    """A connection to some node. Who is restarted takes none for a while."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return Connection(random.choice(ports))
        except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, Stopping):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def work():
    global acknowledged, reconnects, longest
    connection = connect()
    while not os.path.exists(stop):
        sql = f"UPDATE {table} SET n = n + 1 WHERE id = {random.randint(1, 1000)}"
        begun = time.monotonic()
        while True:
            try:
                tags = connection.query(sql)
                break
            except Stopping:
                with lock:
                    reconnects += 1
                connection = connect()
        with lock:
            longest = max(longest, time.monotonic() - begun)
            if tags == ["UPDATE 1"]:
                acknowledged += 1
            else:
                failures.append(f"{sql}: {tags}")
            if acknowledged == 1:
                print("working", flush=True)


def client():
    try:
        work()
    except Exception as error:  # Whatever it is, it is a statement that failed.
        with lock:
            failures.append(f"{type(error).__name__}: {error}")


threads = [threading.Thread(target=client) for _ in range(int(clients))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for failure in failures:
    print(failure)
print(f"{acknowledged} updates acknowledged, {len(failures)} failed, {reconnects} reconnects, longest {longest * 1000:.0f} ms")
sys.exit(1 if failures else 0)
