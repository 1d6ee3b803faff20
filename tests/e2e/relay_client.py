"""A client of the relay protocol, written from docs/PROTOCOL.md alone: accounts with real signatures, requests, answers.

Needs Debian's python3-websockets and python3-nacl.
"""
import asyncio
import hashlib
import os
import signal
import struct
import subprocess
import time

import nacl.encoding
import nacl.signing
import websockets

CHALLENGE, WELCOME, ERROR, OK, SUBMITTED, DELIVER, ACCOUNT, BUNDLE, USERS, PRESENCE, STATES, PREKEYS, DRAINED = range(1, 14)
AUTH, REGISTER, PUT_PREKEYS, LOOKUP, CLAIM, SUBMIT, ACK, QUERY, LIST_USERS, WATCH, UNREGISTER = range(0x41, 0x4c)
(BAD_MESSAGE, AUTH_FAILED, NAME_TAKEN, NOT_FOUND, RATE_LIMITED, TOO_LARGE, FORBIDDEN, REGISTRATION_CLOSED, TOKEN_REQUIRED,
 BUSY, FULL, UNSUPPORTED, WRONG_HOST, REPLACED, CONFLICT, UNKNOWN_ACCOUNT, CLOCK_SKEW, BINDING_REQUIRED) = range(1, 19)

def now():
    return int(time.time() * 1000)


def lp(b):
    return struct.pack("<I", len(b)) + b


def label(text):
    return text.encode() + b"\0"


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise ValueError("truncated message")
        self.at += n
        return self.data[self.at - n:self.at]

    def num(self, n):
        return int.from_bytes(self.take(n), "little")

    def lp(self):
        return self.take(self.num(4))

    def end(self):
        if self.at != len(self.data):
            raise ValueError("trailing bytes")


class Device:
    def __init__(self, number):
        self.number = number
        self.dsk = nacl.signing.SigningKey.generate()
        self.rak = nacl.signing.SigningKey.generate()
        self.dhk = os.urandom(32)

    def encode(self):
        return (struct.pack("<I", self.number) + bytes(self.dsk.verify_key) + self.dhk + bytes(self.rak.verify_key) +
                struct.pack("<BH", 1, 1))


class Account:
    def __init__(self, name, devices=(1,)):
        self.name = name.encode()
        self.ak = nacl.signing.SigningKey.generate()
        self.uid = hashlib.blake2b(label("e2eed/1 uid") + bytes(self.ak.verify_key), digest_size=32).digest()
        self.devices = [Device(n) for n in devices]
        self.revoked = []
        self.n, self.previous = 0, bytes(32)

    def address(self, device=1):
        return self.uid + struct.pack("<I", device)

    def entry(self, n=None, previous=None, name=None):
        """The next entry of the chain (or one with other values), signed."""
        body = (b"\1" + bytes(self.ak.verify_key) + lp(name or self.name) + struct.pack("<Q", n or self.n + 1) +
                (self.previous if previous is None else previous) + struct.pack("<Q", now()) +
                struct.pack("<B", len(self.devices)) + b"".join(d.encode() for d in self.devices) +
                struct.pack("<B", len(self.revoked)) + b"".join(struct.pack("<I", r) for r in self.revoked))
        signatures = self.ak.sign(label("e2eed/1 device list") + body).signature
        for d in self.devices:
            signatures += d.dsk.sign(label("e2eed/1 device entry") + body).signature
        if n is None and previous is None and name is None:
            self.n += 1
            self.previous = hashlib.sha256(label("e2eed/1 device list hash") + body).digest()
            self.newest = lp(body) + signatures
        return lp(body) + signatures

    def signed_prekey(self, key_id, device=0, list_n=1, key=None):
        d = self.devices[device]
        body = (b"\1" + self.uid + struct.pack("<IQHI", d.number, list_n, 1, key_id) + os.urandom(32) + os.urandom(1184) +
                struct.pack("<QQ", now(), now() + 30 * 86400000))
        return lp(body) + (key or d.dsk).sign(label("e2eed/1 signed prekey") + body).signature

    def one_time(self, key_id, device=0):
        d = self.devices[device]
        body = b"\1" + self.uid + struct.pack("<II", d.number, key_id) + os.urandom(32) + os.urandom(1184)
        return lp(body) + d.dsk.sign(label("e2eed/1 one-time prekey") + body).signature


class Relay:
    running = []

    def __init__(self, binary, state, *options):
        self.binary, self.state, self.options, self.port = binary, state, options, 0

    def start(self, **how):
        self.process = subprocess.Popen(
            [self.binary, "serve", "--listen", f"127.0.0.1:{self.port}", "--state", self.state, *self.options],
            stdout=subprocess.PIPE, text=True, **how)
        Relay.running.append(self)
        line = self.process.stdout.readline()
        if not line.startswith("listening on 127.0.0.1:"):
            raise RuntimeError(f"the relay did not start: {line!r}")
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self):
        self.process.kill()
        self.ended()

    def ended(self):
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        Relay.running.remove(self)
        return code

    def stop(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.ended()


class Client:
    """One WebSocket connection."""

    def __init__(self, relay):
        self.relay, self.ref, self.pushed = relay, 0, []

    async def open(self, tls=None):
        scheme = "wss" if tls else "ws"
        self.ws = await websockets.connect(f"{scheme}://127.0.0.1:{self.relay.port}/", subprotocols=["e2ee.v1"],
                                           compression=None, max_size=None, ssl=tls, open_timeout=20)
        kind, ref, r = await self.recv()
        assert kind == CHALLENGE and ref == 0, kind
        self.version = r.num(2)
        self.nonce = r.take(32)
        self.relay_time = r.num(8)
        self.store_id = r.take(16)
        self.max_message, self.max_body, self.window = r.num(4), r.num(4), r.num(4)
        self.registration = r.num(1)
        r.end()
        return self

    async def recv(self, timeout=20):
        data = await asyncio.wait_for(self.ws.recv(), timeout)
        r = Reader(data)
        return r.num(1), r.num(4), r

    async def send(self, kind, fields=b"", ref=None):
        if ref is None:
            self.ref += 1
            ref = self.ref
        await self.ws.send(struct.pack("<BI", kind, ref) + fields)
        return ref

    async def ask(self, kind, fields=b""):
        """Sends a request; what comes before its answer is kept in `pushed`."""
        ref = await self.send(kind, fields)
        while True:
            k, r, reader = await self.recv()
            if r == ref:
                return k, reader
            self.pushed.append((k, reader))

    async def next(self, kind, timeout=20):
        """The next pushed message of a kind."""
        for i, (k, reader) in enumerate(self.pushed):
            if k == kind:
                del self.pushed[i]
                return reader
        while True:
            k, _, reader = await self.recv(timeout)
            if k == kind:
                return reader
            self.pushed.append((k, reader))

    async def error_then_close(self):
        """(code, retry, text) of the ERROR that ends the connection, and the close code."""
        code = None
        try:
            while True:
                k, _, r = await self.recv()
                if k == ERROR:
                    code = r.num(2)
        except websockets.ConnectionClosed as e:
            return code, e.rcvd.code if e.rcvd else None

    def auth_fields(self, account, device=0, host=None, nonce=None, when=None, binding=0, exporter=b"", key=None,
                    number=None, named=None):
        d = account.devices[device]
        key = key or d.rak
        host = (host or f"127.0.0.1:{self.relay.port}").encode()
        mine, when = os.urandom(32), when or now()
        address = account.address(number or d.number)
        signed = (label("e2eed/1 relay auth") + lp(host) + struct.pack("<B", binding) + lp(exporter) + (nonce or self.nonce) +
                  mine + address + struct.pack("<Q", when))
        return (address + bytes((named or key).verify_key) + mine + struct.pack("<Q", when) + lp(host) +
                struct.pack("<B", binding) + key.sign(signed).signature)

    async def auth(self, account, device=0, **how):
        kind, r = await self.ask(AUTH, self.auth_fields(account, device, **how))
        if kind == WELCOME:
            self.welcome = dict(time=r.num(8), one_time=r.num(4), signed=r.num(4), n=r.num(8), waiting=r.num(4))
            r.end()
            return 0
        return r.num(2)

    async def register(self, account, entry=None, token=b"", name=None):
        kind, r = await self.ask(REGISTER, lp(name or account.name) + lp(token) + lp(entry or account.entry()))
        return 0 if kind == OK else r.num(2)

    async def submit(self, envelopes):
        """[(id, address, flags, expires, body)] -> {id: (status, retry)}"""
        fields = struct.pack("<H", len(envelopes))
        for e in envelopes:
            fields += e[0] + e[1] + struct.pack("<BQ", e[2], e[3]) + lp(e[4])
        kind, r = await self.ask(SUBMIT, fields)
        result = {}
        while True:
            if kind == ERROR:
                return r.num(2)
            for _ in range(r.num(2)):
                i = r.take(16)
                result[i] = (r.num(1), r.num(4))
            r.end()
            if len(result) == len({e[0] for e in envelopes}):
                return result
            kind, _, r = await self.recv()

    async def deliveries(self, n, ack=True, timeout=20):
        """The next n envelopes, [(id, time, body)] in their order."""
        got = []
        while len(got) < n:
            r = await self.next(DELIVER, timeout)
            ids = []
            for _ in range(r.num(2)):
                got.append((r.take(16), r.num(8), r.lp()))
                ids.append(got[-1][0])
            r.end()
            if ack:
                await self.ack(ids)
        return got

    async def ack(self, ids):
        for at in range(0, len(ids), 1024):
            part = ids[at:at + 1024]
            await self.send(ACK, struct.pack("<H", len(part)) + b"".join(part), ref=0)

    async def quiet(self, seconds=0.3):
        """Whether no DELIVER comes for a while."""
        try:
            await self.next(DELIVER, seconds)
            return False
        except asyncio.TimeoutError:
            return True

    async def states(self, pairs):
        kind, r = await self.ask(QUERY, struct.pack("<H", len(pairs)) + b"".join(i + a for i, a in pairs))
        assert kind == STATES
        out = {}
        for _ in range(r.num(2)):
            i = r.take(16)
            out[i] = r.num(1)
        r.end()
        return out

    async def close(self):
        await self.ws.close()


def envelope(account, body=b"x" * 100, device=1, flags=0, ttl=3600, eid=None):
    return (eid or os.urandom(16), account.address(device), flags, now() + ttl * 1000, body)


async def online(relay, account, device=0):
    c = await Client(relay).open()
    code = await c.auth(account, device)
    assert code == 0, f"AUTH failed with {code}"
    return c
