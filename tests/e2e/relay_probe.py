#!/usr/bin/python3
"""Speaks docs/PROTOCOL.md section 8 to a real e2ee-relay.

    relay_probe.py PATH_OF_E2EE_RELAY

Starts the relay on a free port with state in a temporary directory, kills it with SIGKILL in between, and ends with
the line "N passed, N failed".
"""
import asyncio
import os
import re
import resource
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import traceback

import nacl.signing
import websockets

from relay_client import *

passed = failed = 0


def check(what, good, detail=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {what} {detail}", flush=True)


async def test_registration(relay, alice, bob):
    c = await Client(relay).open()
    check("challenge", c.version == 1 and c.max_message == 131072 and c.window == 1024 and c.registration == 0 and
          abs(c.relay_time - now()) < 60000)
    check("unknown account", await c.auth(alice) == UNKNOWN_ACCOUNT)
    check("register", await c.register(alice) == 0)
    check("register again", await c.register(alice, alice.newest) == 0)
    check("auth", await c.auth(alice) == 0 and c.welcome["n"] == 1 and c.welcome["waiting"] == 0)
    r = await c.next(DRAINED)
    r.end()
    thief = Account("alice")
    d = await Client(relay).open()
    check("name taken", await d.register(thief) == NAME_TAKEN)
    check("register bob", await d.register(bob) == 0)
    await d.close()
    d = await Client(relay).open()
    check("a fork is refused", await d.register(alice, alice.entry(n=1, previous=bytes(32))) == CONFLICT)
    check("a gap is refused", await d.register(alice, alice.entry(n=3, previous=os.urandom(32))) == CONFLICT)
    check("a wrong hash is refused", await d.register(alice, alice.entry(n=2, previous=os.urandom(32))) == CONFLICT)
    check("another name is refused", await d.register(alice, alice.entry(n=2, previous=alice.previous, name=b"al"), name=b"al")
          == CONFLICT)
    entry = bytearray(Account("mallory").entry())
    entry[-1] ^= 1
    check("a wrong device signature", await d.register(Account("mallory"), bytes(entry)) == AUTH_FAILED)
    check("closes", (await d.error_then_close())[1] is not None)
    entry = bytearray(Account("mallory").entry())
    entry[-65] ^= 1
    d = await Client(relay).open()
    check("a wrong account signature", await d.register(Account("mallory"), bytes(entry)) == AUTH_FAILED)
    kind, r = await c.ask(LOOKUP, b"\1" + lp(b"alice"))
    check("lookup by name", kind == ACCOUNT and r.num(1) == 1 and r.lp() == b"alice" and r.take(32) == alice.uid and
          r.num(2) == 1 and r.lp() == alice.newest)
    r.end()
    kind, r = await c.ask(LOOKUP, b"\2" + lp(bob.uid))
    check("lookup by uid", kind == ACCOUNT and r.num(1) == 1 and r.lp() == b"bob")
    kind, r = await c.ask(LOOKUP, b"\1" + lp(b"nobody"))
    check("lookup of nobody", kind == ACCOUNT and r.num(1) == 0)
    r.end()
    kind, r = await c.ask(LIST_USERS, lp(b"") + struct.pack("<H", 1))
    check("list, first page", kind == USERS and r.num(1) == 1 and r.num(2) == 1 and r.lp() == b"alice")
    kind, r = await c.ask(LIST_USERS, lp(b"alice") + struct.pack("<H", 500))
    check("list, second page", kind == USERS and r.num(1) == 0 and r.num(2) == 1 and r.lp() == b"bob" and r.take(32) == bob.uid)
    await c.close()


async def test_auth(relay, alice, bob):
    async def attempt(code, **how):
        c = await Client(relay).open()
        check(f"auth refused with {code}", await c.auth(alice, **how) == code, how)
        closed = (await c.error_then_close())[1]
        check(f"auth refused with {code} closes", closed is not None, how)

    await attempt(WRONG_HOST, host="evil.example:443")
    await attempt(CLOCK_SKEW, when=now() - 11 * 60000)
    await attempt(CLOCK_SKEW, when=now() + 11 * 60000)
    await attempt(AUTH_FAILED, nonce=os.urandom(32))
    await attempt(AUTH_FAILED, key=nacl.signing.SigningKey.generate())
    await attempt(AUTH_FAILED, named=alice.devices[0].rak, key=alice.devices[0].dsk)
    await attempt(AUTH_FAILED, key=bob.devices[0].rak)
    await attempt(AUTH_FAILED, number=7)
    await attempt(AUTH_FAILED, binding=1, exporter=os.urandom(32))
    c, d = await Client(relay).open(), await Client(relay).open()
    fields = c.auth_fields(alice)
    kind, _ = await c.ask(AUTH, fields)
    check("auth", kind == WELCOME)
    kind, r = await d.ask(AUTH, fields)
    check("a replayed signature fails", kind == ERROR and r.num(2) == AUTH_FAILED)
    check("the first connection lives", (await c.ask(LOOKUP, b"\1" + lp(b"bob")))[0] == ACCOUNT)
    kind, r = await c.ask(AUTH, c.auth_fields(alice))
    check("AUTH twice", kind == ERROR and r.num(2) == BAD_MESSAGE)
    c = await Client(relay).open()
    check("localhost is a name", await c.auth(alice, host=f"LOCALHOST:{relay.port}") == 0)
    d = await online(relay, alice)
    check("replaced", (await c.error_then_close())[0] == REPLACED)
    check("the second lives", (await d.ask(LOOKUP, b"\1" + lp(b"bob")))[0] == ACCOUNT)
    await d.close()
    for kind in (PUT_PREKEYS, LOOKUP, CLAIM, SUBMIT, ACK, QUERY, LIST_USERS, WATCH, UNREGISTER, 0x7f, WELCOME):
        c = await Client(relay).open()
        await c.send(kind, b"\1" + lp(b"bob"))
        check(f"type {kind:#x} before AUTH", await c.error_then_close() == (BAD_MESSAGE, 1008))


async def test_prekeys(relay, alice, bob):
    b = await online(relay, bob)

    def put(signed, replace, one_time):
        return lp(signed) + struct.pack("<BH", replace, len(one_time)) + b"".join(lp(o) for o in one_time)

    keys = [bob.one_time(i) for i in range(1, 6)]
    signed = bob.signed_prekey(77)
    kind, r = await b.ask(PUT_PREKEYS, put(signed, 0, keys))
    check("put", kind == PREKEYS and r.num(4) == 5 and r.num(4) == 77)
    kind, r = await b.ask(PUT_PREKEYS, put(b"", 0, keys))
    check("put again adds nothing", kind == PREKEYS and r.num(4) == 5)
    for name, bad in (("another key", bob.signed_prekey(78, key=alice.devices[0].dsk)), ("a later entry", bob.signed_prekey(78, list_n=9)),
                      ("another account", alice.signed_prekey(78))):
        kind, r = await b.ask(PUT_PREKEYS, put(bad, 0, []))
        check(f"signed prekey of {name}", kind == ERROR and r.num(2) == FORBIDDEN)
    kind, r = await b.ask(PUT_PREKEYS, put(b"", 0, [alice.one_time(9)]))
    check("one-time prekey of another", kind == ERROR and r.num(2) == FORBIDDEN)
    a = await online(relay, alice)
    seen = set()
    for i in range(3):
        kind, r = await a.ask(CLAIM, bob.address())
        check("claim", kind == BUNDLE and r.num(1) == 1 and r.lp() == signed)
        seen.add(r.lp())
        r.end()
    check("three different ones", len(seen) == 3 and seen <= set(keys))
    relay.kill()
    relay.start()
    a, b = await online(relay, alice), await online(relay, bob)
    check("two left after a kill", b.welcome["one_time"] == 2 and b.welcome["signed"] == 77)
    for i in range(2):
        kind, r = await a.ask(CLAIM, bob.address())
        r.num(1), r.lp()
        seen.add(r.lp())
    check("still different ones", len(seen) == 5 and seen == set(keys))
    kind, r = await a.ask(CLAIM, bob.address())
    check("none left: the signed one alone", kind == BUNDLE and r.num(1) == 1 and r.lp() == signed and r.lp() == b"")
    kind, r = await b.ask(PUT_PREKEYS, put(b"", 0, keys))
    check("claimed ones do not come back", kind == PREKEYS and r.num(4) == 0)
    kind, r = await b.ask(PUT_PREKEYS, put(b"", 1, [bob.one_time(i) for i in range(50, 53)]))
    check("replace", kind == PREKEYS and r.num(4) == 3)
    kind, r = await b.ask(PUT_PREKEYS, put(b"", 1, [bob.one_time(i) for i in range(60, 62)]))
    check("replace drops the others", kind == PREKEYS and r.num(4) == 2)
    kind, r = await a.ask(CLAIM, os.urandom(32) + struct.pack("<I", 1))
    check("claim of nobody", kind == BUNDLE and r.num(1) == 0)
    limited = None
    for i in range(40):
        kind, r = await a.ask(CLAIM, bob.address())
        if kind == ERROR:
            limited = (r.num(2), r.num(4))
            break
    check("claims are limited", limited is not None and limited[0] == RATE_LIMITED and limited[1] > 0)
    await a.close()
    await b.close()


async def test_mail(relay, alice, bob):
    a = await online(relay, alice)
    first = [envelope(bob, body=b"%d" % i) for i in range(10)]
    result = await a.submit(first)
    check("stored", all(result[e[0]][0] == 0 for e in first))
    result = await a.submit(first[:3])
    check("duplicates of waiting ones", all(result[e[0]][0] == 1 for e in first[:3]))
    check("waiting", set((await a.states([(e[0], bob.address()) for e in first])).values()) == {1})
    check("unknown", list((await a.states([(os.urandom(16), bob.address())])).values()) == [0])
    odd = [envelope(bob, device=9), envelope(bob, ttl=-1), envelope(bob, flags=1), first[0]]
    result = await a.submit(odd)
    check("statuses", [result[e[0]][0] for e in odd] == [2, 6, 5, 1], result)
    relay.kill()
    relay.start()
    a, b = await online(relay, alice), await online(relay, bob)
    check("ten wait after a kill", b.welcome["waiting"] == 10)
    got = await b.deliveries(10, ack=False)
    check("in order", [g[2] for g in got] == [e[4] for e in first] and [g[0] for g in got] == [e[0] for e in first])
    check("not twice on one connection", await b.quiet())
    check("not drained before the ack", not any(k == DRAINED for k, _ in b.pushed))
    await b.close()
    b = await online(relay, bob)
    got = await b.deliveries(10)
    check("again on the next connection", [g[0] for g in got] == [e[0] for e in first])
    await b.next(DRAINED)
    check("acknowledged", set((await a.states([(e[0], bob.address()) for e in first])).values()) == {2})
    result = await a.submit(first[:3])
    check("duplicates of acknowledged ones", all(result[e[0]][0] == 1 for e in first[:3]))
    check("and not delivered", await b.quiet())
    live = [envelope(bob, body=os.urandom(2000)) for _ in range(200)]
    result = await a.submit(live[:30])
    for at in range(30, 200, 34):
        result.update(await a.submit(live[at:at + 34]))
    got = await b.deliveries(200)
    check("live, in order", [g[0] for g in got] == [e[0] for e in live] and [g[2] for g in got] == [e[4] for e in live])
    check("live, stored", all(result[e[0]][0] == 0 for e in live))
    result = await a.submit(live[:5])
    check("live duplicates", all(v[0] == 1 for v in result.values()) and await b.quiet())
    e = envelope(bob, flags=1)
    check("ephemeral", (await a.submit([e]))[e[0]][0] == 0 and (await b.deliveries(1))[0][0] == e[0])
    check("ephemeral is not known", (await a.states([(e[0], bob.address())]))[e[0]] == 0)
    e = envelope(bob, body=b"z" * 98304)
    check("largest body", (await a.submit([e]))[e[0]][0] == 0 and (await b.deliveries(1))[0][2] == e[4])
    await a.ack([os.urandom(16)])
    await b.close()
    await a.close()
    b = await online(relay, bob)
    check("nothing waits", b.welcome["waiting"] == 0)
    await b.next(DRAINED)
    await b.close()


async def test_window(relay, alice, bob):
    """A slow receiver: the window fills, the rest waits in the store, and nothing overtakes."""
    a, b = await online(relay, alice), await online(relay, bob)
    sent = []
    for _ in range(30):
        batch = [envelope(bob, body=b"%d" % (len(sent) + i)) for i in range(100)]
        result = await a.submit(batch)
        check("stored", all(v[0] == 0 for v in result.values()))
        sent += batch
    got = await b.deliveries(1024, ack=False)
    check("the window is 1024", len(got) == 1024 and await b.quiet())
    check("ephemeral finds no room", [v[0] for v in (await a.submit([envelope(bob, flags=1)])).values()] == [5])
    await b.ack([g[0] for g in got])
    while len(got) < 2500:
        got += await b.deliveries(1)
    late = [envelope(bob, body=b"%d" % (len(sent) + i)) for i in range(100)]
    await a.submit(late)
    sent += late
    got += await b.deliveries(len(sent) - len(got))
    check("all in order", [g[2] for g in got] == [e[4] for e in sent])
    big = [envelope(bob, body=os.urandom(60000)) for _ in range(40)]
    for e in big:
        await a.submit([e])
    got = await b.deliveries(1, ack=False)
    while True:
        try:
            r = await b.next(DELIVER, 0.5)
            for _ in range(r.num(2)):
                got.append((r.take(16), r.num(8), r.lp()))
        except asyncio.TimeoutError:
            break
    check("the window is 1 MiB", sum(len(g[2]) for g in got) <= 1 << 20 and len(got) >= 15, len(got))
    await b.ack([g[0] for g in got])
    got += await b.deliveries(len(big) - len(got))
    check("big ones in order", [g[0] for g in got] == [e[0] for e in big])
    await b.close()
    for at in range(0, 600, 100):
        await a.submit([envelope(bob, body=b"%d" % (at + i)) for i in range(100)])
    b = await online(relay, bob)
    late = [envelope(bob, body=b"%d" % (600 + i)) for i in range(100)]
    await a.submit(late)
    got = await b.deliveries(700)
    check("what is new does not overtake what waits", [g[2] for g in got] == [b"%d" % i for i in range(700)])
    await b.next(DRAINED)
    await a.close()
    await b.close()


async def test_kill(relay, alice, bob):
    """kill -9 while envelopes are under way: what was reported stored is delivered, in order, once a connection."""
    stored = []
    for _ in range(5):
        a = await online(relay, alice)
        batches = [[envelope(bob, body=os.urandom(200)) for _ in range(20)] for _ in range(40)]

        async def pump():
            for batch in batches:
                result = await a.submit(batch)
                stored.extend(e[0] for e in batch if result[e[0]][0] in (0, 1))

        task = asyncio.ensure_future(pump())
        await asyncio.sleep(0.05)
        relay.kill()
        try:
            await task
        except (websockets.ConnectionClosed, OSError):
            pass
        relay.start()
    check("some were stored", len(stored) > 0)
    b = await online(relay, bob)
    got = []
    while not any(k == DRAINED for k, _ in b.pushed):
        try:
            got += await b.deliveries(1, timeout=2)
        except asyncio.TimeoutError:
            break
    ids = [g[0] for g in got]
    check("none is lost", set(stored) <= set(ids), f"{len(set(stored) - set(ids))} of {len(stored)}")
    check("none comes twice", len(ids) == len(set(ids)))
    check("in order", [i for i in ids if i in set(stored)] == stored)
    a = await online(relay, alice)
    states = {}
    for at in range(0, len(stored), 1000):
        states.update(await a.states([(i, bob.address()) for i in stored[at:at + 1000]]))
    check("all are acknowledged", set(states.values()) == {2})
    await a.close()
    await b.close()


async def test_presence(relay, alice, bob):
    a = await online(relay, alice)

    async def state():
        r = await a.next(PRESENCE, 5)
        n = r.num(2)
        return [(r.take(36), r.num(1)) for _ in range(n)]

    kind, r = await a.ask(WATCH, struct.pack("<H", 2) + bob.address() + alice.address())
    check("watch", kind == PRESENCE and r.num(2) == 2 and r.take(36) == bob.address() and r.num(1) == 0 and
          r.take(36) == alice.address() and r.num(1) == 1)
    b = await online(relay, bob)
    check("comes", await state() == [(bob.address(), 1)])
    await b.close()
    check("goes", await state() == [(bob.address(), 0)])
    kind, _ = await a.ask(WATCH, struct.pack("<H", 256) + b"".join(os.urandom(32) + struct.pack("<I", 1) for _ in range(256)))
    check("256 watched", kind == PRESENCE)
    await a.send(WATCH, struct.pack("<H", 257) + b"".join(os.urandom(32) + struct.pack("<I", 1) for _ in range(257)))
    check("257 are refused", (await a.error_then_close())[0] == BAD_MESSAGE)


async def test_lies(relay, alice, bob):
    """Lengths, counts and types that lie: each ends the connection that sent it, and nothing else."""
    witness = await online(relay, bob)
    eid = os.urandom(16)
    lies = [
        ("empty", b""), ("four bytes", b"\x46\0\0\0"),
        ("SUBMIT of nothing", struct.pack("<BIH", SUBMIT, 1, 0)),
        ("SUBMIT count 65535", struct.pack("<BIH", SUBMIT, 1, 65535)),
        ("SUBMIT count 2, one there", struct.pack("<BIH", SUBMIT, 1, 2) + eid + bob.address() + struct.pack("<BQ", 0, now() + 9999) + lp(b"x")),
        ("SUBMIT trailing", struct.pack("<BIH", SUBMIT, 1, 1) + eid + bob.address() + struct.pack("<BQ", 0, now() + 9999) + lp(b"x") + b"y"),
        ("SUBMIT flags", struct.pack("<BIH", SUBMIT, 1, 1) + eid + bob.address() + struct.pack("<BQ", 2, now() + 9999) + lp(b"x")),
        ("SUBMIT body of 4 GiB", struct.pack("<BIH", SUBMIT, 1, 1) + eid + bob.address() + struct.pack("<BQI", 0, now() + 9999, 0xffffffff)),
        ("SUBMIT body one too long", struct.pack("<BIH", SUBMIT, 1, 1) + eid + bob.address() + struct.pack("<BQ", 0, now() + 9999) + lp(b"x" * 98305)),
        ("ACK of nothing", struct.pack("<BIH", ACK, 1, 0)), ("ACK short", struct.pack("<BIH", ACK, 1, 2) + eid),
        ("ACK long", struct.pack("<BIH", ACK, 1, 1) + eid + b"x"),
        ("QUERY short", struct.pack("<BIH", QUERY, 1, 2) + eid + bob.address()),
        ("QUERY 1025", struct.pack("<BIH", QUERY, 1, 1025) + (eid + bob.address()) * 1025),
        ("LOOKUP by 3", struct.pack("<BIB", LOOKUP, 1, 3) + lp(b"bob")),
        ("LOOKUP name", struct.pack("<BIB", LOOKUP, 1, 1) + lp(b"Bob!")),
        ("LOOKUP uid", struct.pack("<BIB", LOOKUP, 1, 2) + lp(b"short")),
        ("CLAIM short", struct.pack("<BI", CLAIM, 1) + b"x" * 35),
        ("CLAIM device 0", struct.pack("<BI", CLAIM, 1) + bytes(36)),
        ("WATCH short", struct.pack("<BIH", WATCH, 1, 2) + bob.address()),
        ("LIST_USERS 0", struct.pack("<BI", LIST_USERS, 1) + lp(b"") + b"\0\0"),
        ("LIST_USERS 501", struct.pack("<BI", LIST_USERS, 1) + lp(b"") + struct.pack("<H", 501)),
        ("PUT_PREKEYS 51", struct.pack("<BI", PUT_PREKEYS, 1) + lp(b"") + struct.pack("<BH", 0, 51) + lp(b"") * 51),
        ("PUT_PREKEYS replace 2", struct.pack("<BI", PUT_PREKEYS, 1) + lp(b"") + struct.pack("<BH", 2, 0)),
        ("REGISTER garbage", struct.pack("<BI", REGISTER, 1) + lp(b"alice") + lp(b"") + lp(os.urandom(300))),
        ("UNREGISTER short", struct.pack("<BI", UNREGISTER, 1) + bytes(71)),
        ("too long", bytes([SUBMIT]) + bytes(131072)), ("much too long", bytes([SUBMIT]) + bytes(1 << 20)),
    ]
    for name, message in lies:
        a = await online(relay, alice)
        try:
            await a.ws.send(message)
        except websockets.ConnectionClosed:
            pass
        code, closed = await a.error_then_close()
        check(f"lie: {name}", code == BAD_MESSAGE and closed in (1008, 1009), (code, closed))
    a = await online(relay, alice)
    kind, r = await a.ask(0x7f, b"what")
    check("an unknown type", kind == ERROR and r.num(2) == UNSUPPORTED)
    await a.ws.send("text")
    try:
        while True:
            await a.recv()
    except websockets.ConnectionClosed as e:
        check("text frames", e.rcvd.code == 1003)
    check("the others live", (await witness.ask(LOOKUP, b"\1" + lp(b"bob")))[0] == ACCOUNT)
    try:
        await websockets.connect(f"ws://127.0.0.1:{relay.port}/", open_timeout=5)
        check("no subprotocol", False)
    except (websockets.InvalidHandshake, OSError, EOFError, asyncio.TimeoutError):
        check("no subprotocol", True)
    await witness.close()
    c = await Client(relay).open()
    fragments = struct.pack("<BI", REGISTER, 1) + lp(alice.name) + lp(b"") + lp(alice.newest)
    await c.ws.send([fragments[i:i + 7] for i in range(0, len(fragments), 7)])
    check("a message in fragments", (await c.recv())[0] == OK)
    await c.close()


async def test_chain(relay, alice):
    a = await online(relay, alice)
    alice.devices.append(Device(2))
    check("a second device", await a.register(alice) == 0)
    two = await online(relay, alice, 1)
    check("it connects", two.welcome["n"] == 2)
    kind, r = await a.ask(LOOKUP, b"\2" + lp(alice.uid))
    r.num(1), r.lp(), r.take(32)
    check("the chain", r.num(2) == 2 and r.lp()[:4] and r.lp() == alice.newest)
    alice.revoked, gone = [2], alice.devices.pop()
    check("revoke it", await a.register(alice) == 0)
    check("it is sent away", (await two.error_then_close())[0] == AUTH_FAILED)
    alice.devices.append(gone)
    alice.revoked = []
    check("it never comes back", await a.register(alice, alice.entry(n=4, previous=alice.previous)) == CONFLICT)
    alice.devices.pop()
    alice.revoked = [2]
    check("mail for it", [v[0] for v in (await a.submit([envelope(alice, device=2)])).values()] == [2])
    await a.close()


async def test_unregister(relay, bob):
    carol = Account("carol")
    c = await Client(relay).open()
    await c.register(carol)
    await c.auth(carol)
    b = await online(relay, bob)
    await b.submit([envelope(carol)])

    def fields(key, nonce):
        when = now()
        signed = label("e2eed/1 relay delete") + nonce + carol.uid + struct.pack("<Q", when)
        return struct.pack("<Q", when) + key.sign(signed).signature

    kind, r = await c.ask(UNREGISTER, fields(bob.ak, c.nonce))
    check("unregister with another key", kind == ERROR and r.num(2) == FORBIDDEN)
    kind, r = await c.ask(UNREGISTER, fields(carol.ak, os.urandom(32)))
    check("unregister with another nonce", kind == ERROR and r.num(2) == FORBIDDEN)
    kind, r = await c.ask(UNREGISTER, fields(carol.ak, c.nonce))
    check("unregister", kind == OK)
    check("mail for nobody", [v[0] for v in (await b.submit([envelope(carol)])).values()] == [2])
    c = await Client(relay).open()
    check("the account is gone", await c.auth(carol) == UNKNOWN_ACCOUNT)
    again = Account("carol")
    check("the name is free", await c.register(again) == 0)
    check("and another's", await c.auth(again) == 0 and c.welcome["waiting"] == 0)
    await c.close()
    await b.close()


def handshake(extra=""):
    return ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: e2ee.v1\r\n" + extra + "\r\n").encode()


def frame(message):
    """One masked binary frame (with a mask of zeros)."""
    n = len(message)
    head = struct.pack(">BB", 0x82, 0x80 | n) if n < 126 else struct.pack(">BBH", 0x82, 0x80 | 126, n)
    return head + bytes(4) + message


class OpensslClient(Client):
    """AUTH over `openssl s_client`, which prints the exporter that Python's ssl module does not have."""

    async def run(self, account, wrong=False):
        tool = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{self.relay.port}", "-nocommands", "-keymatexport",
            "EXPORTER-Channel-Binding", "-keymatexportlen", "32", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL)
        seen = b""

        async def until(pattern):
            nonlocal seen
            while not (found := re.search(pattern, seen, re.DOTALL)):
                more = await asyncio.wait_for(tool.stdout.read(65536), 20)
                if not more:
                    raise EOFError(pattern)
                seen += more
            return found

        tool.stdin.write(handshake())
        exporter = bytes.fromhex((await until(rb"Keying material: ([0-9A-F]{64})"))[1].decode())
        self.nonce = (await until(rb"\x82\x4c\x01\0\0\0\0\x01\0(.{32})"))[1]
        if wrong:
            exporter = os.urandom(32)
        tool.stdin.write(frame(struct.pack("<BI", AUTH, 0x51525354) + self.auth_fields(account, binding=1, exporter=exporter)))
        answer = (await until(rb"\x82.([\x02\x03])TSRQ(..)"))
        tool.stdin.close()
        tool.kill()
        await tool.wait()
        return 0 if answer[1] == b"\x02" else struct.unpack("<H", answer[2])[0]


def tls_files(directory):
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, stderr=subprocess.DEVNULL)
    return cert, key


async def test_tls(binary, directory):
    cert, key = tls_files(directory)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    relay = Relay(binary, os.path.join(directory, "tls"), "--tls-cert", cert, "--tls-key", key).start()
    dora = Account("dora")
    c = await Client(relay).open(tls=context)
    check("TLS 1.3", c.ws.transport.get_extra_info("ssl_object").version() == "TLSv1.3")
    check("register over TLS", await c.register(dora) == 0)
    check("binding is required", await c.auth(dora) == BINDING_REQUIRED)
    c = await Client(relay).open(tls=context)
    check("a wrong exporter", await c.auth(dora, binding=1, exporter=os.urandom(32)) == AUTH_FAILED)
    check("bound to the channel", await OpensslClient(relay).run(dora) == 0)
    check("bound to another channel", await OpensslClient(relay).run(dora, wrong=True) == AUTH_FAILED)
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    try:
        await Client(relay).open(tls=old)
        check("TLS 1.2 is refused", False)
    except (ssl.SSLError, OSError):
        check("TLS 1.2 is refused", True)
    check("TLS relay stops", await asyncio.to_thread(relay.stop) == 0)
    relay = Relay(binary, os.path.join(directory, "tls"), "--tls-cert", cert, "--tls-key", key, "--channel-binding", "off").start()
    c = await Client(relay).open(tls=context)
    check("binding off", await c.auth(dora) == 0)
    await c.close()
    check("stops", await asyncio.to_thread(relay.stop) == 0)


async def test_modes(binary, directory):
    state = os.path.join(directory, "modes")
    token = subprocess.run([binary, "token", "create", "--state", state], capture_output=True, text=True, check=True).stdout.strip()
    relay = Relay(binary, state, "--registration", "token", "--raw", "echo", "--mailbox-envelopes", "5").start()
    second = subprocess.run([binary, "serve", "--listen", "127.0.0.1:0", "--state", state], capture_output=True, text=True)
    check("a second relay is refused", second.returncode != 0 and "another e2ee-relay" in second.stderr, second.stderr)
    eve, fay = Account("eve"), Account("fay")
    c = await Client(relay).open()
    check("mode is announced", c.registration == 1)
    check("no token", await c.register(eve, eve.entry()) == TOKEN_REQUIRED)
    check("wrong token", await c.register(eve, eve.newest, token=b"guess") == TOKEN_REQUIRED)
    check("token", await c.register(eve, eve.newest, token=token.encode()) == 0)
    check("used up", await c.register(fay, fay.entry(), token=token.encode()) == TOKEN_REQUIRED)
    check("idempotent without a token", await c.register(eve, eve.newest) == 0)
    await c.ws.send("hello")
    check("echo", await c.ws.recv() == "hello")
    check("auth", await c.auth(eve) == 0)
    await c.close()
    c = await Client(relay).open()
    token = subprocess.run([binary, "token", "create", "--state", state, "--uses", "2"], capture_output=True, text=True).stdout.strip()
    check("a token made beside the running relay", await c.register(fay, fay.newest, token=token.encode()) == 0)
    check("auth", await c.auth(fay) == 0)
    result = await c.submit([envelope(eve) for _ in range(8)])
    check("a full mailbox", sorted(v[0] for v in result.values()) == [0] * 5 + [3] * 3)
    stats = subprocess.run([binary, "stats", "--state", state], capture_output=True, text=True)
    check("stats", stats.returncode == 0 and "waiting envelopes  5" in stats.stdout, stats.stdout + stats.stderr)
    check("stops at SIGINT", await asyncio.to_thread(relay.stop, signal.SIGINT) == 0)
    relay = Relay(binary, state, "--registration", "closed").start()
    c = await Client(relay).open()
    gus = Account("gus")
    check("closed", await c.register(gus) == REGISTRATION_CLOSED and c.registration == 2)
    check("auth still works", await c.auth(eve) == 0)
    check("stops with a client", await asyncio.to_thread(relay.stop) == 0)
    check("1001", (await c.error_then_close())[1] == 1001)


async def test_full_disk(binary, directory):
    """Files that may not grow (what a full disk is to SQLite): nothing is reported stored, and all is well afterwards."""
    relay = Relay(binary, os.path.join(directory, "full")).start(
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400000, resource.RLIM_INFINITY)))
    hal, ida = Account("hal"), Account("ida")
    c, d = await Client(relay).open(), await Client(relay).open()
    check("register", await c.register(hal) == 0 and await d.register(ida) == 0)
    check("auth", await c.auth(hal) == 0 and await d.auth(ida) == 0)
    statuses, last, got = set(), None, []
    for _ in range(40):
        last = envelope(ida, body=os.urandom(20000))
        status, retry = (await c.submit([last]))[last[0]]
        statuses.add(status)
        got += [g[0] for g in await d.deliveries(1, ack=False)]
    check("try again, not stored", statuses == {0, 4} and status == 4 and retry > 0, statuses)
    check("live delivery goes on", len(got) == 40)
    check("the relay lives", (await d.ask(LOOKUP, b"\1" + lp(b"hal")))[0] == ACCOUNT)
    resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    check("stored when there is room", (await c.submit([last]))[last[0]][0] == 0)
    await d.ack(got)
    result = (await c.states([(last[0], ida.address())]))[last[0]]
    check("stops", await asyncio.to_thread(relay.stop) == 0)
    relay.start()
    d = await online(relay, ida)
    check("acknowledged", d.welcome["waiting"] == 0, d.welcome)
    await asyncio.to_thread(relay.stop)


async def half_open(relay):
    """Peers that begin and do not go on are sent away within 30 s."""
    async def peer(name, data, rest=b"", limit=30):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        start = time.monotonic()
        writer.write(data)
        while time.monotonic() - start < limit + 5:
            try:
                more = await asyncio.wait_for(reader.read(65536), 1)
                if more == b"" or b"\x88\x02" in more:
                    break
            except asyncio.TimeoutError:
                writer.write(rest[:1])
                rest = rest[1:]
            except OSError:
                break
        check(f"{name} is sent away", time.monotonic() - start < limit, f"{time.monotonic() - start:.1f} s")
        writer.close()

    whole = handshake()
    await asyncio.gather(peer("a silent connection", b""), peer("half a request", whole[:60]),
                         peer("a request byte by byte", whole[:20], whole[20:80]),
                         peer("a connection without AUTH", whole, limit=20))


async def test_stop(relay, alice, bob):
    """SIGTERM: what was submitted before it is stored and answered."""
    a = await online(relay, alice)
    e = [envelope(bob, body=os.urandom(500)) for _ in range(100)]
    result = await a.submit(e)
    check("stored", all(v[0] == 0 for v in result.values()))
    check("exit status", await asyncio.to_thread(relay.stop) == 0)
    relay.start()
    b = await online(relay, bob)
    check("kept", [g[0] for g in await b.deliveries(100)] == [x[0] for x in e])
    await b.close()


async def main(binary):
    with tempfile.TemporaryDirectory() as directory:
        relay = Relay(binary, os.path.join(directory, "state")).start()
        alice, bob = Account("alice"), Account("bob")
        slow = Relay(binary, os.path.join(directory, "slow")).start()
        waiting = asyncio.ensure_future(half_open(slow))
        try:
            store = (await Client(relay).open()).store_id
            await test_registration(relay, alice, bob)
            await test_auth(relay, alice, bob)
            await test_prekeys(relay, alice, bob)
            await test_mail(relay, alice, bob)
            await test_window(relay, alice, bob)
            await test_kill(relay, alice, bob)
            await test_presence(relay, alice, bob)
            await test_lies(relay, alice, bob)
            await test_chain(relay, alice)
            await test_unregister(relay, bob)
            await test_stop(relay, alice, bob)
            check("the store's id stays", (await Client(relay).open()).store_id == store)
        finally:
            if relay.process.poll() is None:
                check("exit status", await asyncio.to_thread(relay.stop) == 0)
            else:
                check("the relay lives", False, relay.process.returncode)
        await test_tls(binary, directory)
        await test_modes(binary, directory)
        await test_full_disk(binary, directory)
        await waiting
        check("exit status", await asyncio.to_thread(slow.stop) == 0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except Exception as e:  # an unexpected answer: report it as one failure with its place
        traceback.print_exc()
        failed += 1
    for relay in list(Relay.running):
        relay.kill()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
