#!/usr/bin/python3
"""e2eed-link-ws as a process, against servers on 127.0.0.1: good, bad, slow and dead ones.

Usage: test_link.py PATH_OF_E2EED_LINK_WS [unittest options]
"""
import asyncio
import base64
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import websockets

LINK = os.environ.get("E2EED_LINK_WS", "")
DATA, TEXT, CLOSE, PING, CONNECTED, CLOSED, RTT, PONG = 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14
MAX_MESSAGE = 131072
PROTOCOL = "e2ee.v1"
WAIT = 20
logging.getLogger("websockets").setLevel(logging.CRITICAL + 1)


def openssl(*args, **kw):
    return subprocess.run(["openssl", *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kw).stdout


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.key, self.cert = self.path("ca.key"), self.path("ca.pem")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key,
                "-out", self.cert, "-subj", f"/CN={name}", "-days", "2",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def path(self, name):
        return os.path.join(self.folder, f"{self.name}-{name}")

    def issue(self, name, san, start="-1d", end="+1d"):
        """A server certificate; start and end are offsets in days."""
        key, csr, cert, ext = (self.path(f"{name}.{e}") for e in ("key", "csr", "pem", "ext"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr,
                "-subj", "/CN=relay")
        with open(ext, "w") as f:
            f.write(f"[e]\nsubjectAltName={san}\n[ca]\ndefault_ca=d\n[d]\nnew_certs_dir={self.folder}\n"
                    f"database={self.path('db')}\nserial={self.path('serial')}\ndefault_md=sha256\npolicy=p\n"
                    "unique_subject=no\n[p]\ncommonName=supplied\n")
        if not os.path.exists(self.path("db")):
            open(self.path("db"), "w").close()
            with open(self.path("serial"), "w") as f:
                f.write("01\n")
        when = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + 86400 * int(d[:-1]))) for d in (start, end)]
        openssl("ca", "-batch", "-config", ext, "-extensions", "e", "-notext", "-keyfile", self.key, "-cert",
                self.cert, "-in", csr, "-out", cert, "-startdate", when[0], "-enddate", when[1])
        return key, cert


def server_tls(pair, most=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair[1], pair[0])
    if most:
        context.maximum_version = most
    return context


class Link:
    """The program, with our end of its socketpair."""

    def __init__(self, url, *options, start=True):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(WAIT)
        self.process = subprocess.Popen([LINK, *options, url], close_fds=False, stderr=subprocess.PIPE,
                                        preexec_fn=lambda: os.dup2(theirs.fileno(), 3, True))
        theirs.close()

    def send(self, kind, data=b""):
        self.sock.send(bytes([kind]) + data)

    def packet(self):
        data = self.sock.recv(MAX_MESSAGE + 100)
        return (data[0], data[1:]) if data else (None, b"")

    def until(self, kind):
        """The next packet of a kind; RTT and PONG in front of it are passed over."""
        while True:
            got, data = self.packet()
            if got == kind:
                return data
            if got not in (RTT, PONG):
                raise AssertionError(f"wanted {kind:#x}, got {got} {data[:300]!r}")

    def connected(self):
        data = self.until(CONNECTED)
        return data[0], data[1:33], data[37:].decode()

    def closed(self):
        data = self.until(CLOSED)
        code, n = struct.unpack("<HI", data[:6])
        assert n == len(data) - 6
        return code, data[6:].decode()

    def wait(self, seconds=WAIT):
        return self.process.wait(seconds)

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

    def done(self):
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Servers:
    """WebSocket servers on a loop of their own, in a thread of their own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT)

    def serve(self, handler, host="127.0.0.1", subprotocols=(PROTOCOL,), **kw):
        async def start():
            return await websockets.serve(handler, host, 0, subprotocols=list(subprotocols), max_size=None,
                                          compression=None, ping_interval=None, **kw)
        server = self.run(start())
        return server, server.sockets[0].getsockname()[1]

    def stop(self, server):
        self.loop.call_soon_threadsafe(server.close)


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def read_head(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            raise ConnectionError("end of input")
        data += more
    return data


def switching(head, protocol=PROTOCOL):
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", head, re.I).group(1)
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    line = b"Sec-WebSocket-Protocol: %s\r\n" % protocol.encode() if protocol else b""
    return (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n%s\r\n" % (accept, line))


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.servers = Servers()
        cls.folder = tempfile.mkdtemp(prefix="e2eed-link-")
        cls.ca = Authority(cls.folder, "good")
        cls.other_ca = Authority(cls.folder, "other")
        cls.pair = cls.ca.issue("server", "DNS:localhost,IP:127.0.0.1")
        with open(LINK, "rb") as f:
            cls.sanitized = b"__asan_init" in f.read()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def serve(self, handler=echo, **kw):
        server, port = self.servers.serve(handler, **kw)
        self.addCleanup(self.servers.stop, server)
        return port

    def raw(self, handler):
        """A TCP server whose handler gets one connection in a thread."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def run():
            try:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(WAIT)
                    handler(sock)
            except OSError:
                pass
        threading.Thread(target=run, daemon=True).start()
        return listener.getsockname()[1]

    def link(self, url, *options):
        link = Link(url, *options)
        self.addCleanup(link.done)
        return link

    def refused(self, url, pattern, *options, exit_code=69):
        link = self.link(url, *options)
        code, reason = link.closed()
        self.assertEqual(code, 0)
        self.assertRegex(reason, pattern)
        self.assertEqual(link.wait(), exit_code)
        self.assertEqual(link.packet(), (None, b""))
        return reason


class Plain(Case):
    def test_echo(self):
        seen = {}

        async def handler(ws):
            seen.update(path=ws.path, protocol=ws.subprotocol, host=ws.request_headers["Host"],
                        extensions=ws.request_headers.get("Sec-WebSocket-Extensions"))
            await echo(ws)
        port = self.serve(handler)
        link = self.link(f"ws://LOCALHOST:{port}/a/b?c=d")
        self.assertEqual(link.connected(), (0, bytes(32), f"localhost:{port}"))
        for size in (0, 1, 125, 126, 127, 1000, 16383, 16384, 16385, 65535, 65536, 65537, MAX_MESSAGE - 1, MAX_MESSAGE):
            data = os.urandom(size)
            link.send(DATA, data)
            self.assertEqual(link.until(DATA), data, size)
        self.assertEqual(seen, {"path": "/a/b?c=d", "protocol": PROTOCOL, "host": f"localhost:{port}",
                                "extensions": None})
        link.send(TEXT, "grüße".encode())
        self.assertEqual(link.until(TEXT), "grüße".encode())
        link.send(PING)
        while link.packet()[0] != PONG:
            pass

    def test_round_trip_time(self):
        link = self.link(f"ws://127.0.0.1:{self.serve()}/")
        link.connected()
        (us,) = struct.unpack("<I", link.until(RTT))
        self.assertLess(us, 5000000)
        self.assertGreater(us, 0)

    def test_ipv6(self):
        link = self.link(f"ws://[0:0::1]:{self.serve(host='::1')}/")
        self.assertRegex(link.connected()[2], r"^\[::1\]:\d+$")

    def test_fragments_and_control_frames_between(self):
        async def handler(ws):
            async def parts():
                for i in range(8):
                    yield bytes([i]) * 16384
            await ws.ping()
            await ws.send(parts())
            await (await ws.ping())
            await echo(ws)
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
        link.connected()
        self.assertEqual(link.until(DATA), b"".join(bytes([i]) * 16384 for i in range(8)))
        link.send(DATA, b"after")
        self.assertEqual(link.until(DATA), b"after")

    def test_many_small_messages_in_order(self):
        link = self.link(f"ws://127.0.0.1:{self.serve()}/")
        link.connected()
        count = 20000

        def feed():
            for i in range(count):
                link.send(DATA, struct.pack("<I", i))
        threading.Thread(target=feed, daemon=True).start()
        for i in range(count):
            self.assertEqual(link.until(DATA), struct.pack("<I", i))

    def test_close_from_daemon(self):
        seen = []

        async def handler(ws):
            await ws.wait_closed()
            seen.append(ws.close_code)
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
        link.connected()
        link.send(CLOSE)
        self.assertEqual(link.closed(), (1000, "closed as asked"))
        self.assertEqual(link.wait(), 0)
        time.sleep(0.1)
        self.assertEqual(seen, [1000])

    def test_close_sends_what_was_queued(self):
        got = []

        async def handler(ws):
            async for message in ws:
                got.append(len(message))
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
        link.connected()
        for _ in range(30):
            link.send(DATA, bytes(100000))
        link.send(CLOSE)
        self.assertEqual(link.closed()[0], 1000)
        time.sleep(0.2)
        self.assertEqual(got, [100000] * 30)

    def test_close_from_server(self):
        async def handler(ws):
            await ws.close(4001, "go\taway")
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
        link.connected()
        self.assertEqual(link.closed(), (4001, "the relay closed the connection: go?away"))
        self.assertEqual(link.wait(), 0)

    def test_connection_lost(self):
        async def handler(ws):
            await ws.recv()
            ws.transport.abort()
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
        link.connected()
        link.send(DATA, b"x")
        self.assertEqual(link.closed(), (0, "the connection to the relay was lost"))
        self.assertEqual(link.wait(), 0)

    def test_end_of_daemon(self):
        link = self.link(f"ws://127.0.0.1:{self.serve()}/")
        link.connected()
        link.sock.close()
        self.assertEqual(link.wait(1), 0)

    def test_end_of_daemon_while_connecting(self):
        link = self.link(f"ws://127.0.0.1:{self.raw(lambda s: s.recv(1) and time.sleep(5))}/")
        time.sleep(0.3)
        link.sock.close()
        self.assertEqual(link.wait(1), 0)

    def test_killed(self):
        link = self.link(f"ws://127.0.0.1:{self.serve()}/")
        link.connected()
        link.process.send_signal(signal.SIGKILL)
        while link.packet()[0] is not None:
            pass
        self.assertEqual(link.wait(), -9)


class Failures(Case):
    def test_refused(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        begin = time.monotonic()
        self.refused(f"ws://127.0.0.1:{port}/", rf"^cannot connect to 127.0.0.1:{port} .*: Connection refused$")
        self.refused(f"wss://localhost:{port}/", rf"^cannot connect to localhost:{port} .*: Connection refused$",
                     "--ca-file", self.ca.cert)
        self.assertLess(time.monotonic() - begin, 5)

    def test_unknown_host(self):
        self.refused("ws://no-such-host.invalid/", "^cannot find the host no-such-host.invalid: ")

    def test_deadline(self):
        begin = time.monotonic()
        port = self.raw(lambda s: time.sleep(5))
        self.refused(f"ws://127.0.0.1:{port}/", rf"^no answer from 127.0.0.1:{port} within 300 ms$",
                     "--connect-timeout-ms", "300")
        port = self.raw(lambda s: time.sleep(5))
        self.refused(f"wss://127.0.0.1:{port}/", "^no answer from ", "--connect-timeout-ms", "300", "--ca-file",
                     self.ca.cert)
        self.assertLess(time.monotonic() - begin, 3)

    def test_http_status(self):
        def answer(text):
            return self.raw(lambda s: (read_head(s), s.sendall(text), time.sleep(0.5)))
        for status in (200, 403, 404, 500, 503):
            port = answer(b"HTTP/1.1 %d Nope\r\nContent-Length: 0\r\n\r\n" % status)
            self.refused(f"ws://127.0.0.1:{port}/", f"HTTP status {status}")

    def test_no_redirect(self):
        elsewhere = self.serve()
        port = self.raw(lambda s: (read_head(s), s.sendall(
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % elsewhere),
            time.sleep(0.5)))
        self.refused(f"ws://127.0.0.1:{port}/", "HTTP status 302")

    def test_no_subprotocol(self):
        self.refused(f"ws://127.0.0.1:{self.serve(subprotocols=())}/", "not a relay")
        port = self.raw(lambda s: (s.sendall(switching(read_head(s), "mqtt")), time.sleep(0.5)))
        self.refused(f"ws://127.0.0.1:{port}/", "does not answer as a relay")

    def test_wrong_accept(self):
        port = self.raw(lambda s: (read_head(s), s.sendall(switching(b"Sec-WebSocket-Key: x")), time.sleep(0.5)))
        self.refused(f"ws://127.0.0.1:{port}/", "does not answer as a relay")

    def test_hangs_up(self):
        self.refused(f"ws://127.0.0.1:{self.raw(read_head)}/", "closed the connection before it answered")
        self.refused(f"ws://127.0.0.1:{self.raw(lambda s: None)}/", "closed the connection|Connection re")

    def test_nonsense(self):
        port = self.raw(lambda s: (s.sendall(os.urandom(70000)), read_head(s)))
        self.refused(f"ws://127.0.0.1:{port}/", ".")

    def test_bad_frames(self):
        for frame in (b"\x83\x00", b"\x8f\x00", b"\xf2\x00", b"\x09\x00", b"\x89\x7e\x00\x80" + bytes(128),
                      b"\x80\x00", b"\x02\x00\x82\x00", b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff"):
            port = self.raw(lambda s, f=frame: (s.sendall(switching(read_head(s)) + f), s.recv(100), s.recv(100)))
            link = self.link(f"ws://127.0.0.1:{port}/", "--ping-interval", "200")
            link.connected()
            while (got := link.packet())[0] in (RTT, DATA):
                pass
            self.assertEqual(got[0], CLOSED, frame)
            self.assertEqual(link.wait(), 0)

    def test_urls(self):
        for url in ("", "http://h/", "ws://", "ws:///x", "ws://u@h/", "ws://h:0/", "ws://h:65536/", "ws://h:x/",
                    "ws://[::1/", "ws://[x]/", "ws://a b/", "ws://h/#f", "ws://h/ö", "ws://-h/"):
            self.refused(url, "^cannot use the relay's URL: ", "--", exit_code=64)

    def test_usage(self):
        for args in ([], ["--bogus", "ws://h/"], ["ws://h/", "x"], ["--connect-timeout-ms", "0", "ws://h/"],
                     ["--connect-timeout-ms", "1x", "ws://h/"]):
            r = subprocess.run([LINK, *args], capture_output=True, text=True)
            self.assertEqual((r.returncode, r.stdout), (64, ""))
            self.assertIn("Usage:", r.stderr)
        self.assertEqual(subprocess.run([LINK, "--help"], capture_output=True).returncode, 0)

    def test_descriptor(self):
        r = subprocess.run([LINK, "ws://127.0.0.1:1/"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 64)
        self.assertIn("descriptor 3 must be", r.stderr)
        with open("/dev/null") as f:
            r = subprocess.run([LINK, "ws://127.0.0.1:1/"], capture_output=True, text=True, close_fds=False,
                               preexec_fn=lambda: os.dup2(f.fileno(), 3, True))
        self.assertEqual(r.returncode, 64)

    def test_malformed_from_daemon(self):
        for packet in (b"\x7f", b"\x12", b"\x03x", b"\x04x", b"\x01" + bytes(MAX_MESSAGE + 1)):
            link = self.link(f"ws://127.0.0.1:{self.serve()}/")
            link.connected()
            link.sock.send(packet)
            self.assertRegex(link.closed()[1], "malformed packet from its daemon")
            self.assertEqual(link.wait(), 76)
        link = self.link(f"ws://127.0.0.1:{self.raw(lambda s: time.sleep(5))}/")
        link.send(DATA, b"too early")
        link.closed()
        self.assertEqual(link.wait(), 76)


class Tls(Case):
    def wss(self, pair, host="127.0.0.1", **kw):
        return self.serve(ssl=server_tls(pair, **kw), host=host)

    def test_connects(self):
        exporters = set()
        for name in ("localhost", "127.0.0.1"):
            port = self.wss(self.pair)
            link = self.link(f"wss://{name}:{port}/x", "--ca-file", self.ca.cert)
            tls, exporter, host = link.connected()
            self.assertEqual((tls, host), (1, f"{name}:{port}"))
            exporters.add(exporter)
            for size in (1, 20000, MAX_MESSAGE):
                data = os.urandom(size)
                link.send(DATA, data)
                self.assertEqual(link.until(DATA), data)
        self.assertEqual(len(exporters), 2)

    def test_exporter_is_the_server_s(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            port = s.getsockname()[1]
        server = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", self.pair[0], "-cert",
                                   self.pair[1], "-keymatexport", "EXPORTER-Channel-Binding", "-keymatexportlen", "32"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(lambda: (server.kill(), server.wait(), server.stdin.close(), server.stdout.close()))
        while b"ACCEPT" not in server.stdout.readline():
            pass
        link = self.link(f"wss://127.0.0.1:{port}/", "--ca-file", self.ca.cert)
        text = b""
        while b"Sec-WebSocket-Version" not in text or b"Keying material:" not in text:
            text += server.stdout.readline()
        server.stdin.write(switching(text))
        server.stdin.flush()
        material = re.search(rb"Keying material: ([0-9A-F]{64})", text).group(1)
        self.assertEqual(link.connected()[1].hex().upper(), material.decode())

    def test_ipv6(self):
        pair = self.ca.issue("v6", "IP:::1")
        self.assertEqual(self.link(f"wss://[::1]:{self.wss(pair, host='::1')}/", "--ca-file", self.ca.cert)
                         .connected()[0], 1)
        self.refused(f"wss://[::1]:{self.wss(self.pair, host='::1')}/", "certificate is not for ::1$", "--ca-file",
                     self.ca.cert)

    def test_wrong_authority(self):
        self.refused(f"wss://127.0.0.1:{self.wss(self.pair)}/", "certificate is not trusted here: ", "--ca-file",
                     self.other_ca.cert)

    def test_system_authorities(self):
        self.refused(f"wss://127.0.0.1:{self.wss(self.pair)}/", "certificate is not trusted here: ")

    def test_self_signed(self):
        key, cert = os.path.join(self.folder, "self.key"), os.path.join(self.folder, "self.pem")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
                cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
        self.refused(f"wss://127.0.0.1:{self.wss((key, cert))}/", "not trusted here: self.signed", "--ca-file",
                     self.ca.cert)

    def test_wrong_name(self):
        pair = self.ca.issue("elsewhere", "DNS:elsewhere.test,DNS:*.host,DNS:local*,IP:127.0.0.2")
        port = self.wss(pair)
        for name in ("localhost", "127.0.0.1"):
            self.refused(f"wss://{name}:{port}/", f"certificate is not for {name}$", "--ca-file", self.ca.cert)

    def test_expired(self):
        pair = self.ca.issue("expired", "IP:127.0.0.1", "-9d", "-2d")
        self.refused(f"wss://127.0.0.1:{self.wss(pair)}/", "certificate has expired$", "--ca-file", self.ca.cert)

    def test_not_yet_valid(self):
        pair = self.ca.issue("future", "IP:127.0.0.1", "+1d", "+2d")
        self.refused(f"wss://127.0.0.1:{self.wss(pair)}/", "certificate is not valid yet", "--ca-file", self.ca.cert)

    def test_plain_server(self):
        self.refused(f"wss://127.0.0.1:{self.serve()}/", "TLS handshake failed: wrong version number", "--ca-file",
                     self.ca.cert)

    def test_old_tls(self):
        old = server_tls(self.pair, ssl.TLSVersion.TLSv1_2)
        port = self.raw(lambda s: old.wrap_socket(s, server_side=True))
        self.refused(f"wss://127.0.0.1:{port}/", "TLS handshake.*version", "--ca-file", self.ca.cert)

    def test_tls_server_asked_in_plain(self):
        self.refused(f"ws://127.0.0.1:{self.wss(self.pair)}/", ".")

    def test_bad_authority_file(self):
        self.refused("wss://127.0.0.1:1/", "^cannot load certificate authorities from /nonexistent", "--ca-file",
                     "/nonexistent")
        self.refused("wss://127.0.0.1:1/", "^cannot load certificate authorities from ", "--ca-file", self.ca.key)


class Flow(Case):
    """Neither side can make the link grow."""

    def growth(self, link):
        return 3000 + (6000 if self.sanitized else 0)

    def test_oversized(self):
        codes = []

        async def whole(ws):
            await ws.send(bytes(MAX_MESSAGE + 1))
            await ws.wait_closed()
            codes.append(ws.close_code)

        async def endless(ws):
            async def parts():
                while True:
                    yield bytes(10000)
            try:
                await ws.send(parts())
            except websockets.ConnectionClosed:
                codes.append(ws.close_code)
        for handler in (whole, endless):
            link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/")
            link.connected()
            self.assertEqual(link.closed(), (1009, "the relay sent a message over 131072 bytes"))
            self.assertEqual(link.wait(), 0)
        time.sleep(0.2)
        self.assertEqual(codes[0], 1009)

    def test_announced_giant(self):
        """The peer goes on sending while the close frame waits for its answer."""
        port = self.raw(lambda s: (s.sendall(switching(read_head(s)) + b"\x82\x7f" + struct.pack(">Q", 1 << 40)),
                                   [(s.sendall(bytes(65536)), time.sleep(i / 1e6)) for i in range(1000)]))
        link = self.link(f"ws://127.0.0.1:{port}/")
        link.connected()
        self.assertEqual(link.closed()[0], 1009)
        self.assertEqual(link.wait(), 0)

    def test_slow_daemon(self):
        count, size = 3000, 16000
        sent = []

        async def handler(ws):
            for i in range(count):
                await ws.send(struct.pack("<I", i) + bytes(size))
                sent.append(i)
            await ws.wait_closed()
        link = self.link(f"ws://127.0.0.1:{self.serve(handler)}/", "--ping-interval", "400")
        link.connected()
        time.sleep(0.5)
        before, stuck = link.rss(), len(sent)
        time.sleep(1.5)  # longer than a peer may be silent: an unread network is not a dead one
        self.assertLess(link.rss() - before, self.growth(link))
        self.assertEqual(len(sent), stuck)
        self.assertLess(stuck, count)
        for i in range(count):
            self.assertEqual(link.until(DATA)[:4], struct.pack("<I", i))
        link.send(PING)
        link.until(PONG)

    def test_slow_network(self):
        gate = threading.Event()
        got = []

        def handler(s):
            s.sendall(switching(read_head(s)))
            gate.wait(WAIT)
            while data := s.recv(1 << 20):
                got.append(len(data))
        link = self.link(f"ws://127.0.0.1:{self.raw(handler)}/")
        link.connected()
        before = link.rss()
        link.sock.setblocking(False)
        sent, deadline = 0, time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                link.send(DATA, bytes(MAX_MESSAGE))
                sent += 1
            except BlockingIOError:
                time.sleep(0.01)
        link.sock.settimeout(WAIT)
        self.assertLess(sent, 200)
        self.assertLess(link.rss() - before, self.growth(link))
        link.until(PONG)  # unasked: it is alive though it does not read
        gate.set()
        link.send(CLOSE)
        self.assertEqual(link.closed()[0], 1000)
        for _ in range(100):
            if sum(got) > sent * MAX_MESSAGE:
                break
            time.sleep(0.05)
        self.assertGreater(sum(got), sent * MAX_MESSAGE)

    def test_end_of_daemon_while_stalled(self):
        port = self.raw(lambda s: (s.sendall(switching(read_head(s))), time.sleep(5)))
        link = self.link(f"ws://127.0.0.1:{port}/")
        link.connected()
        link.sock.settimeout(0.5)
        with self.assertRaises(TimeoutError):
            while True:
                link.send(DATA, bytes(MAX_MESSAGE))
        link.sock.close()
        self.assertEqual(link.wait(1), 0)

    def test_dead_peer(self):
        port = self.raw(lambda s: (s.sendall(switching(read_head(s))), time.sleep(5)))
        link = self.link(f"ws://127.0.0.1:{port}/", "--ping-interval", "400")
        link.connected()
        begin = time.monotonic()
        code, reason = link.closed()
        self.assertEqual(code, 0)
        self.assertRegex(reason, "nothing has come from the relay")
        self.assertTrue(0.8 < time.monotonic() - begin < 2)
        self.assertEqual(link.wait(), 0)

    def test_stopped_server(self):
        code = ("import asyncio,websockets\n"
                "async def h(ws):\n async for m in ws: await ws.send(m)\n"
                "async def main():\n s=await websockets.serve(h,'127.0.0.1',0,subprotocols=['e2ee.v1'])\n"
                " print(s.sockets[0].getsockname()[1],flush=True)\n await asyncio.Future()\n"
                "asyncio.run(main())\n")
        server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        self.addCleanup(lambda: (server.kill(), server.wait(), server.stdout.close()))
        link = self.link(f"ws://127.0.0.1:{int(server.stdout.readline())}/", "--ping-interval", "400")
        link.connected()
        time.sleep(1.5)
        link.send(DATA, b"alive")
        self.assertEqual(link.until(DATA), b"alive")
        server.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        self.assertRegex(link.closed()[1], "nothing has come from the relay")
        self.assertLess(time.monotonic() - begin, 2)

    def test_forged_pongs(self):
        def handler(s):
            s.sendall(switching(read_head(s)))
            for _ in range(100):
                s.sendall(b"\x8a\x08" + os.urandom(8) + b"\x8a\x00")
            time.sleep(0.5)
        link = self.link(f"ws://127.0.0.1:{self.raw(handler)}/")
        link.connected()
        self.assertEqual(link.packet()[0], CLOSED)


class Sandbox(Case):
    def test_what_is_given_up(self):
        leak = os.open("/dev/null", os.O_RDONLY)
        os.dup2(leak, 30, True)
        os.environ["E2EED_TEST_SECRET"] = "1"
        self.addCleanup(lambda: (os.close(leak), os.close(30), os.environ.pop("E2EED_TEST_SECRET")))
        link = self.link(f"ws://127.0.0.1:{self.serve()}/")
        link.connected()
        proc = f"/proc/{link.process.pid}"
        with open(f"{proc}/status") as f:
            status = f.read()
        self.assertRegex(status, r"NoNewPrivs:\s+1")
        with open(f"{proc}/limits") as f:
            limits = f.read()
        self.assertRegex(limits, r"Max open files\s+64\s+64")
        self.assertRegex(limits, r"Max core file size\s+0\s+0")
        self.assertRegex(limits, r"Max processes\s+0\s+0")
        if os.getuid() == 0:
            fds = os.listdir(f"{proc}/fd")
            self.assertNotIn("30", fds)
            self.assertLess(len(fds), 12)
        else:  # not dumpable: closed to its own user
            with self.assertRaises(PermissionError):
                os.listdir(f"{proc}/fd")
        if not self.sanitized:
            self.assertLess(link.rss(), 12000)

    def test_dies_with_its_parent(self):
        code = ("import os,socket,subprocess,sys\n"
                "a,b=socket.socketpair(socket.AF_UNIX,socket.SOCK_SEQPACKET)\n"
                "os.set_inheritable(a.fileno(),True)\n"
                "p=subprocess.Popen([sys.argv[1],sys.argv[2]],close_fds=False,stdout=subprocess.DEVNULL,"
                "preexec_fn=lambda:os.dup2(b.fileno(),3,True))\n"
                "b.close()\nheld=subprocess.Popen(['sleep','30'],close_fds=False,stdout=subprocess.DEVNULL)\n"
                "a.recv(1000)\nprint(p.pid,held.pid,flush=True)\nos.kill(os.getpid(),9)\n")
        r = subprocess.run([sys.executable, "-c", code, LINK, f"ws://127.0.0.1:{self.serve()}/"],
                           stdout=subprocess.PIPE, text=True)
        pid, holder = map(int, r.stdout.split())
        self.addCleanup(os.kill, holder, signal.SIGKILL)
        for _ in range(100):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except FileNotFoundError:
                return
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        self.fail("the link outlived its parent")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].startswith("-") and os.path.exists(arguments[0]):
        LINK = os.path.abspath(arguments.pop(0))
    if not LINK:
        sys.exit(__doc__)
    begin = time.monotonic()
    result = unittest.main(argv=[sys.argv[0], *arguments], exit=False, verbosity=2).result
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    sys.exit(bad != 0)
