#!/usr/bin/env python3
"""A slow cable: connections to each LISTEN port reach TARGET port of this machine, and every byte takes MS milliseconds either way.

Usage: scripts/delay.py MS LISTEN:TARGET...   Runs until it is killed.
"""
import asyncio
import collections
import sys


class OneWay(asyncio.Protocol):
    """Hands on what arrives here at the other end, later, in order."""

    def __init__(self, delay):
        self.delay = delay
        self.waiting = collections.deque()
        self.there = None
        self.here = None

    def connection_made(self, transport):
        self.here = transport

    def data_received(self, data):
        self.later(data)

    def connection_lost(self, _):
        self.later(None)

    def later(self, data):
        self.waiting.append(data)
        asyncio.get_running_loop().call_later(self.delay, self.hand_on)

    def hand_on(self):
        data = self.waiting.popleft()
        if self.there is None or self.there.is_closing():
            return
        if data is None:
            self.there.close()
        else:
            self.there.write(data)


class Near(OneWay):
    """The end that is connected to: dials the other one."""

    def __init__(self, delay, target):
        super().__init__(delay)
        self.target = target

    def connection_made(self, transport):
        super().connection_made(transport)
        # Read when there is somebody to hand it to.
        transport.pause_reading()
        self.dialling = asyncio.ensure_future(self.dial())

    async def dial(self):
        try:
            _, far = await asyncio.get_running_loop().create_connection(lambda: OneWay(self.delay), "127.0.0.1", self.target)
        except OSError:
            self.here.abort()
            return
        self.there, far.there = far.here, self.here
        self.here.resume_reading()


async def main(delay, ports):
    loop = asyncio.get_running_loop()
    for listen, target in ports:
        await loop.create_server(lambda target=target: Near(delay, target), "127.0.0.1", listen)
    await asyncio.Event().wait()


if __name__ == "__main__":
    pairs = [tuple(int(port) for port in pair.split(":")) for pair in sys.argv[2:]]
    asyncio.run(main(float(sys.argv[1]) / 1000, pairs))
