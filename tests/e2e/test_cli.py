#!/usr/bin/env python3
"""test_cli.py E2EECTL IPC_DEMO: the command line against a daemon that is only its local API."""

import base64
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

E2EECTL, IPC_DEMO = None, None
VERBS = ["init", "status", "health", "send", "wait", "listen", "read", "contact", "users", "raw", "api"] + [
    "contact " + v for v in ("list", "show", "add", "verify", "trust", "block", "unblock", "remove")]
COLOR = re.compile(rb"\x1b\[[0-9]+m")
MAX_BODY = 65536


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="e2eectl-")
        cls.socket = os.path.join(cls.dir, "demo.sock")
        cls.demo = subprocess.Popen([IPC_DEMO, cls.socket], stdout=subprocess.PIPE)
        assert cls.demo.stdout.readline() == b"ready\n"
        cls.env = {"PATH": os.environ["PATH"], "E2EED_SOCKET": cls.socket, "TERM": "xterm", "TZ": "UTC"}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                cls.env[name] = os.environ[name]

    @classmethod
    def tearDownClass(cls):
        cls.demo.terminate()
        cls.demo.wait()
        cls.demo.stdout.close()
        shutil.rmtree(cls.dir)

    def run_cli(self, *args, stdin=b"", env=None, timeout=20):
        return subprocess.run([E2EECTL, *args], input=stdin, capture_output=True, env=env or self.env, timeout=timeout)

    def ok(self, *args, **more):
        r = self.run_cli(*args, **more)
        self.assertEqual((r.returncode, r.stderr), (0, b""), args)
        return r.stdout.decode()

    def fails(self, code, *args, says="", **more):
        r = self.run_cli(*args, **more)
        self.assertEqual(r.returncode, code, (args, r.stderr))
        self.assertIn(says, r.stderr.decode(), args)
        return r

    def lines(self, *args, **more):
        return [json.loads(line) for line in self.ok("--json", *args, **more).splitlines()]

    def in_terminal(self, *args, env=None):
        """Runs with standard output on a terminal; what the terminal received."""
        pid, fd = pty.fork()
        if pid == 0:
            try:
                os.execve(E2EECTL, [E2EECTL, *args], env or self.env)
            finally:
                os._exit(127)
        out = b""
        while True:
            try:
                ready, _, _ = select.select([fd], [], [], 20)
                piece = os.read(fd, 65536) if ready else b""
            except OSError:
                piece = b""
            if not piece:
                break
            out += piece
        os.close(fd)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, out)
        return out.replace(b"\r\n", b"\n")


class Help(Case):
    def test_every_verb(self):
        for verb in VERBS:
            for flag in ("--help", "-h"):
                text = self.ok(*verb.split(), flag)
                self.assertTrue(text.startswith("Usage: e2eectl " + verb), text)

    def test_fits_the_terminal(self):
        for verb in [""] + VERBS:
            for line in self.ok(*verb.split(), "--help").splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_lists_verbs_options_and_exit_codes(self):
        text = self.ok("--help")
        for word in [v for v in VERBS if " " not in v] + ["--account", "--socket", "--json", "--timeout"]:
            self.assertIn(word, text)
        for code in (64, 65, 66, 67, 69, 70, 73, 74, 75, 77, 78):
            self.assertRegex(text, r"\n  %d  \w" % code)

    def test_needs_no_daemon(self):
        self.ok("send", "--help", env=dict(self.env, E2EED_SOCKET="/nonexistent"))

    def test_version(self):
        self.assertRegex(self.ok("--version"), r"^e2eectl \d+\.\d+\.\d+\n$")


class Arguments(Case):
    def test_named_in_the_message(self):
        for args, says in [
                ((), "verb is missing"),
                (("sned",), "'sned'"),
                (("contact",), "verb is missing"),
                (("contact", "lits"), "'lits'"),
                (("send",), "USER is missing"),
                (("send", ""), "USER is empty"),
                (("send", "bob"), "TEXT is missing"),
                (("send", "bob", "two", "words"), "'words'"),
                (("send", "bob", "x", "--file", "y"), "exclude"),
                (("send", "bob", "x", "--wait=soon"), "'soon'"),
                (("send", "bob", "x", "--wait"), "--wait needs a value"),
                (("send", "bob", "x", "--qos=3"), "0 to 2, not '3'"),
                (("send", "bob", "x", "--qos=-1"), "'-1'"),
                (("send", "bob", "x", "--ttl=fast"), "'fast'"),
                (("send", "bob", "x", "--ttl=5x"), "'5x'"),
                (("send", "bob", "x", "--ttl=0"), "'0'"),
                (("send", "bob", "x", "--not-before=never"), "'never'"),
                (("send", "bob", "x", "--colour"), "'--colour'"),
                (("send", "bob", "x", "-q"), "'-q'"),
                (("status", "now"), "'now'"),
                (("--timeout=soon", "status"), "'soon'"),
                (("--timeout=99999999999", "status"), "--timeout"),
                (("--account", "../x", "status"), "'../x'"),
                (("--account", "a", "--socket", "b", "status"), "exclude"),
                (("wait",), "ID is missing"),
                (("wait", "x", "--until=gone"), "'gone'"),
                (("read", "bob"), "ID is missing"),
                (("listen", "--count=many"), "'many'"),
                (("listen", "--after=-3"), "'-3'"),
                (("listen", "--types=,"), "--types"),
                (("contact", "verify", "bob", "12a"), "'12a'"),
                (("contact", "trust", "bob", "--policy=maybe"), "'maybe'"),
                (("init",), "USER is missing"),
                (("api",), "METHOD is missing"),
        ]:
            self.fails(64, *args, says=says)

    def test_help_is_pointed_at(self):
        self.fails(64, "contact", "add", says="see 'e2eectl contact add --help'")

    def test_the_daemon_refuses(self):
        self.fails(64, "listen", "--types=nonsense", says="types")
        self.fails(64, "api", "no.such.method", says="METHOD_NOT_FOUND")
        self.fails(64, "api", "status", '{"x": 1}', says="x")

    def test_options_on_both_sides(self):
        self.assertEqual(self.ok("--json", "status"), self.ok("status", "--json"))
        env = dict(self.env, E2EED_SOCKET="/nonexistent")
        self.ok("status", "--socket", self.socket, env=env)
        self.ok("--socket=" + self.socket, "contact", "list", env=env)


class NoDaemon(Case):
    def test_says_how_to_start_it(self):
        env = {"PATH": self.env["PATH"], "XDG_RUNTIME_DIR": self.dir}
        for verb in (["status"], ["send", "bob", "x"], ["listen"], ["api", "status"], ["contact", "list"]):
            self.fails(69, *verb, env=env, says="systemctl --user start e2eed.socket")
        self.fails(69, "--account", "work", "status", env=env, says="systemctl --user start e2eed@work.socket")
        self.fails(69, "--account", "work", "status", env=env, says=self.dir + "/e2eed/work.sock")

    def test_stale_and_wrong_sockets(self):
        stale = os.path.join(self.dir, "stale.sock")
        s = socket.socket(socket.AF_UNIX)
        s.bind(stale)
        s.close()
        self.fails(69, "--socket", stale, "status", says=stale)
        self.fails(69, "--socket", "/nonexistent/x", "status", says="/nonexistent/x")
        self.fails(64, "--socket", "/" + "x" * 200, "status", says="107")

    def peer(self, data, *args):
        """A listener that answers any connection with data and closes it; the run of e2eectl against it."""
        path = os.path.join(self.dir, "peer.sock")
        s = socket.socket(socket.AF_UNIX)
        s.bind(path)
        s.listen(1)

        def serve():
            c, _ = s.accept()
            c.recv(100)
            if data is None:
                time.sleep(1)
            else:
                c.sendall(data)
            c.close()
        t = threading.Thread(target=serve)
        t.start()
        try:
            return self.run_cli("--socket", path, *args)
        finally:
            t.join()
            s.close()
            os.unlink(path)

    def test_peers_that_are_no_daemon(self):
        r = self.peer(b"HTTP/1.1 400 Bad Request\r\n\r\n", "status")
        self.assertEqual(r.returncode, 70, r)
        self.assertIn(b"MessagePack", r.stderr)
        r = self.peer(b"", "status")
        self.assertEqual(r.returncode, 69, r)
        self.assertIn(b"closed", r.stderr)
        r = self.peer(None, "--timeout=100ms", "status")
        self.assertEqual(r.returncode, 75, r)


class Send(Case):
    def received(self, since):
        """The one message event behind `since`."""
        e = self.lines("listen", "--types=message", "--after", str(since), "--count=1", "--timeout=10s")
        return e[0]

    def last_seq(self):
        return self.lines("status")[0]["last_seq"]

    def test_prints_the_id(self):
        self.assertRegex(self.ok("send", "bob", "hello"), r"^[0-9a-f]{32}\n$")
        self.assertEqual(self.ok("send", "bob", "hello", "--id", "my-id"), "my-id\n")
        self.assertEqual(self.lines("send", "bob", "hello", "--id=my-id")[0]["id"], "my-id")
        self.fails(65, "send", "bob", "other", "--id=my-id", says="ID_CONFLICT")

    def test_wait(self):
        for state in ("sent", "delivered"):
            out = self.lines("send", "bob", "x", "--wait", state)[0]
            self.assertIn(out["state"], ("sent", "delivered"))
        self.assertRegex(self.ok("send", "bob", "x", "--wait=delivered"), r"^\w+ delivered\n$")
        r = self.fails(75, "send", "bob", "x", "--wait=read", "--timeout=200ms", says="TIMEOUT")
        self.assertRegex(r.stdout.decode(), r"^\w+\n$")
        self.ok("send", "bob", "x", "--id=w")
        self.assertEqual(self.ok("wait", "w"), "w delivered\n")
        self.assertEqual(self.lines("wait", "w", "--until=sent"), [{"id": "w", "state": "delivered"}])
        self.fails(65, "wait", "unknown", says="UNKNOWN_MESSAGE")

    def test_unknown_user(self):
        self.fails(67, "send", "nobody", "x", says="UNKNOWN_USER")
        r = self.fails(67, "--json", "send", "nobody", "x")
        self.assertEqual(json.loads(r.stderr)["error"]["name"], "UNKNOWN_USER")
        self.assertEqual(json.loads(r.stderr)["error"]["exit"], 67)
        self.assertEqual(json.loads(self.fails(64, "--json", "send").stderr)["error"]["exit"], 64)

    def test_standard_input(self):
        for body in (b"text\n", "grün ✓\nzwei".encode(), b"x" * MAX_BODY):
            since = self.last_seq()
            self.ok("send", "alice", "-", stdin=body)
            self.assertEqual(self.received(since)["text"].encode(), body)

    def test_bytes(self):
        for body, args in ((b"\xff\xfe", ()), (b"a\0b", ()), (b"text", ("--bytes",)), (b"\xff" * MAX_BODY, ())):
            since = self.last_seq()
            self.ok("send", "alice", "-", *args, stdin=body)
            self.assertEqual(base64.b64decode(self.received(since)["bytes"]["base64"]), body)
        self.fails(65, "send", "alice", b"\xff", says="UTF-8")
        self.ok("send", "alice", b"\xff", "--bytes")

    def test_too_long(self):
        self.fails(65, "send", "alice", "-", stdin=b"x" * (MAX_BODY + 1), says="65536")
        self.fails(65, "send", "alice", "x" * (MAX_BODY + 1), says="65536")
        with open("/dev/zero", "rb") as endless:
            r = subprocess.run([E2EECTL, "send", "alice", "-"], stdin=endless, capture_output=True, env=self.env, timeout=10)
        self.assertEqual(r.returncode, 65)

    def test_file(self):
        path = os.path.join(self.dir, "body")
        with open(path, "wb") as f:
            f.write(b"from a file")
        since = self.last_seq()
        self.ok("send", "alice", "--file", path)
        self.assertEqual(self.received(since)["text"], "from a file")
        self.fails(66, "send", "alice", "--file", path + "x", says=path + "x")
        self.fails(66, "send", "alice", "--file", self.dir, says=self.dir)
        with open(path, "wb") as f:
            f.truncate(MAX_BODY + 1)
        self.fails(65, "send", "alice", "--file", path, says=path)

    def test_text_that_looks_like_an_option(self):
        since = self.last_seq()
        self.ok("send", "alice", "--", "--help")
        self.assertEqual(self.received(since)["text"], "--help")

    def test_times(self):
        for args in (("--ttl=1h30m",), ("--ttl=90",), ("--not-before=+10m",), ("--not-before=2030-12-31T18:00:00Z",),
                     ("--not-before=2030-12-31 18:00",), ("--qos=0", "--require-verified")):
            self.ok("send", "bob", "x", *args)
        self.fails(64, "send", "bob", "x", "--ttl=31d", says="ttl")


class Listen(Case):
    def send(self, *texts):
        for t in texts:
            self.ok("send", "alice", t, "--wait=delivered")

    def test_count_types_and_after(self):
        since = self.lines("status")[0]["last_seq"]
        self.send("one", "two", "three")
        e = self.lines("listen", "--after", str(since), "--types=message", "--count=3")
        self.assertEqual([x["text"] for x in e], ["one", "two", "three"])
        e = self.lines("listen", "--after", str(e[0]["seq"]), "--types=message,message_ack", "--count=4")
        self.assertEqual({x["type"] for x in e}, {"message", "message_ack"})

    def test_timeout(self):
        self.fails(75, "listen", "--count=2", "--timeout=100ms", says="2 events")
        self.ok("listen", "--timeout=100ms")

    def test_consumer_goes_on_where_it_stood(self):
        since = self.lines("status")[0]["last_seq"]
        self.send("a", "b", "c", "d")
        seen = self.lines("listen", "--consumer=one", "--after", str(since), "--types=message", "--count=1", "--timeout=10s")
        for _ in range(3):
            seen += self.lines("listen", "--consumer=one", "--types=message", "--count=1", "--timeout=10s")
        self.assertEqual([x["text"] for x in seen], ["a", "b", "c", "d"])
        self.fails(75, "listen", "--consumer=one", "--types=message", "--count=1", "--timeout=200ms")

    def test_not_written_is_not_acknowledged(self):
        since = self.lines("status")[0]["last_seq"]
        self.send("kept", "later")
        command = ["listen", "--consumer=full", "--types=message", "--count=1", "--timeout=5s"]
        self.ok("api", "ack", json.dumps({"consumer": "full", "seq": since}))
        with open("/dev/full", "wb") as full:
            r = subprocess.run([E2EECTL, *command], stdout=full, stderr=subprocess.PIPE, env=self.env, timeout=10)
        self.assertEqual(r.returncode, 74, r)
        self.assertEqual([e["text"] for e in self.lines(*command)], ["kept"])
        self.assertEqual([e["text"] for e in self.lines(*command)], ["later"])

    def start(self, *args):
        p = subprocess.Popen([E2EECTL, "--json", "listen", *args], stdout=subprocess.PIPE, env=self.env)
        self.addCleanup(p.stdout.close)
        return p

    def test_signal_ends_it_by_the_signal(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            p = self.start("--consumer=sig%d" % s, "--after=0")
            p.stdout.readline()
            p.send_signal(s)
            self.assertEqual(p.wait(10), -s)

    def test_reader_that_goes_away(self):
        p = self.start()
        time.sleep(0.3)
        p.stdout.close()
        self.assertEqual(p.wait(10), -signal.SIGPIPE)

    def test_many(self):
        since = self.lines("status")[0]["last_seq"]
        for i in range(20):
            self.ok("send", "alice", "m%d" % i)
        e = self.lines("listen", "--consumer=many", "--after", str(since), "--types=message", "--count=20", "--timeout=10s")
        self.assertEqual({x["text"] for x in e}, {"m%d" % i for i in range(20)})


class Terminal(Case):
    # An escape that renames the window, a CSI in its one-byte form, a change of direction, a forged line, a carriage return.
    EVIL = "a\x1b]0;owned\x07b\u009b31mc\u202ed\nalice: forged\re\x7f"

    def setUp(self):
        self.since = self.lines("status")[0]["last_seq"]
        self.ok("send", "alice", self.EVIL, "--wait=delivered")

    def listen(self, *args, **more):
        return self.in_terminal(*args, "listen", "--after", str(self.since), "--types=message", "--count=1", "--timeout=10s", **more)

    def assert_harmless(self, out):
        text = COLOR.sub(b"", out).decode()
        for c in text:
            self.assertFalse((ord(c) < 32 and c != "\n") or 0x7f <= ord(c) <= 0x9f or c == "\u202e", ascii(text))

    def test_text(self):
        out = self.listen()
        self.assert_harmless(out)
        self.assertIn(b"\x1b[", out)
        self.assertIn(b"\\x1b]0;owned", out)
        for line in COLOR.sub(b"", out).decode().splitlines()[1:]:
            self.assertTrue(line.startswith("  "), line)

    def test_json(self):
        out = self.listen("--json")
        self.assert_harmless(out)
        self.assertEqual(json.loads(out)["text"], self.EVIL)

    def test_no_color(self):
        for env in (dict(self.env, NO_COLOR="1"), dict(self.env, TERM="dumb")):
            out = self.listen(env=env)
            self.assertNotIn(b"\x1b", out)
            self.assertNotIn(b"\x1b", self.in_terminal("contact", "list", env=env))

    def test_a_pipe_gets_no_color(self):
        out = self.ok("listen", "--after", str(self.since), "--types=message", "--count=1")
        self.assertNotIn("\x1b", out)
        for verb in (("contact", "list"), ("users",), ("status",)):
            self.assertNotIn("\x1b", self.ok(*verb))

    def test_errors_are_sanitised(self):
        r = self.fails(65, "wait", "a\x1b[2Jb")
        self.assertNotIn(b"\x1b", r.stderr)

    def test_columns(self):
        for verb in (("contact", "list"), ("users",), ("status",)):
            for line in COLOR.sub(b"", self.in_terminal(*verb)).decode().splitlines():
                self.assertLessEqual(len(line), 80)


class Others(Case):
    def test_json_everywhere(self):
        for args in (("status",), ("contact", "list"), ("users",), ("send", "bob", "x"), ("send", "bob", "x", "--wait=sent"),
                     ("api", "events", '{"after": 0}'), ("listen", "--after=0", "--count=1")):
            out = self.lines(*args)
            self.assertTrue(out, args)
            for o in out:
                self.assertIsInstance(o, dict)

    def test_lists(self):
        self.assertEqual([u["user"] for u in self.lines("users")], ["bob", "carol", "web1"])
        self.assertEqual(self.ok("users").split(), ["bob", "carol", "web1"])
        self.assertEqual([c["user"] for c in self.lines("contact", "list")], ["bob", "carol", "web1"])
        self.assertRegex(self.ok("contact", "list"), r"verified +bob\nunverified +carol\n")

    def test_status(self):
        self.assertRegex(self.ok("status"), r"user +alice\n")

    def test_api(self):
        self.assertEqual(json.loads(self.ok("api", "status"))["user"], "alice")
        self.assertEqual(json.loads(self.ok("api", "contact.list", "{}"))["contacts"][0]["user"], "bob")
        self.assertEqual(json.loads(self.ok("api", "send", "-", stdin=b'{"to": "bob", "bytes": {"base64": "AAE="}, "id": "j"}'))["id"], "j")
        self.assertTrue(json.loads(self.ok("api", "api_info"))["methods"])
        self.fails(65, "api", "status", "{", says="JSON")
        self.fails(65, "api", "status", "[]", says="object")
        self.fails(65, "api", "status", "-", stdin=b"{}\0", says="zero byte")
        self.fails(65, "api", "status", "-", stdin=b" " * (1 << 20) + b" ", says="1048576")

    def test_what_the_relay_is_needed_for(self):
        for args in (("contact", "show", "bob"), ("contact", "add", "dave"), ("contact", "block", "bob"), ("raw", "x"),
                     ("contact", "verify", "bob", "12345 67890"), ("contact", "verify", "bob"), ("contact", "remove", "bob"),
                     ("contact", "unblock", "bob"), ("contact", "trust", "bob"), ("read", "bob", "i1", "i2"),
                     ("init", "alice", "--relay=ws://127.0.0.1:1/")):
            self.fails(75, *args, says="NOT_CONNECTED")

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            for args in (("status",), ("--help",), ("users",)):
                r = subprocess.run([E2EECTL, *args], stdout=full, stderr=subprocess.PIPE, env=self.env, timeout=10)
                self.assertEqual(r.returncode, 74, r)
                self.assertIn(b"standard output", r.stderr)


if __name__ == "__main__":
    E2EECTL, IPC_DEMO = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
