"""What the end-to-end tests stand on: real relay, daemons and clients in a temporary directory on loopback, and a small
MessagePack-RPC client of its own, so that the project's library is not tested by itself.

Runs with Debian's python3 and python3-msgpack. Programs are taken from $E2EED_BIN. A test file ends with lab.main().
"""
import errno, json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, time, traceback

import msgpack

BIN = os.environ.get("E2EED_BIN", os.path.join(os.path.dirname(__file__), "../../build/asan/bin"))


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def wait_until(what, text, seconds=20.0, step=0.02):
    """The first true value of what() within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("not within %gs: %s" % (seconds, text))
        time.sleep(step)


class RpcError(Exception):
    def __init__(self, name, text, code=0):
        super().__init__("%s: %s" % (name, text))
        self.name, self.text, self.code = name, text, code


class Client:
    """One connection to a daemon: call() and event()."""

    def __init__(self, path, timeout=30.0):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=64 << 20)
        self.events, self.answers, self.msgid = [], {}, 0

    def close(self):
        self.sock.close()

    def start(self, method, **params):
        self.msgid += 1
        self.sock.sendall(msgpack.packb([0, self.msgid, method, [params]], use_bin_type=True))
        return self.msgid

    def _pump(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        self.unpacker.feed(data)
        for message in self.unpacker:
            if message[0] == 2:
                self.events.append(message[2][0])
            else:
                self.answers[message[1]] = message

    def finish(self, msgid):
        while msgid not in self.answers:
            self._pump()
        _, _, error, result = self.answers.pop(msgid)
        if error is not None:
            name, _, text = error[1].partition(": ")
            raise RpcError(name, text, error[0])
        return result

    def call(self, method, **params):
        return self.finish(self.start(method, **params))

    def error_of(self, method, **params):
        """The error that the call must answer with."""
        try:
            result = self.call(method, **params)
        except RpcError as e:
            return e
        raise Failure("%s %r was answered %r, an error was expected" % (method, params, result))

    def event(self, seconds=20.0, **like):
        """The next event with these fields; others are dropped."""
        end = time.monotonic() + seconds
        while True:
            while self.events:
                e = self.events.pop(0)
                if all(e.get(k) == v for k, v in like.items()):
                    return e
            left = end - time.monotonic()
            if left <= 0:
                raise Failure("no event %r within %gs" % (like, seconds))
            self.sock.settimeout(left)
            try:
                self._pump()
            except socket.timeout:
                pass
            finally:
                self.sock.settimeout(30.0)


class Process:
    def __init__(self, argv, log, env=None, stdout=None, **more):
        self.log = log
        with open(log, "ab") as err:
            self.p = subprocess.Popen(argv, stderr=err, stdout=stdout or subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                      env={**os.environ, **(env or {})}, **more)

    def kill(self, sig=signal.SIGKILL):
        if self.p.poll() is None:
            self.p.send_signal(sig)
        return self.p.wait(30)

    def running(self):
        return self.p.poll() is None


class Relay:
    def __init__(self, lab, name="relay", args=()):
        self.lab, self.name, self.args = lab, name, list(args)
        self.state, self.port, self.process = os.path.join(lab.dir, name), 0, None
        self.start()

    def start(self):
        out = os.path.join(self.lab.dir, self.name + ".out")
        with open(out, "wb") as f:
            self.process = Process([os.path.join(BIN, "e2ee-relay"), "serve", "--listen", "127.0.0.1:%d" % self.port, "--state", self.state, *self.args],
                                   os.path.join(self.lab.dir, self.name + ".log"), stdout=f)
        def listening():
            check(self.process.running(), "the relay ended: " + self.lab.tail(self.process.log))
            m = re.search(r"listening on \S+:(\d+)", open(out).read())
            return m and int(m.group(1))
        self.port = wait_until(listening, "the relay listens")

    @property
    def url(self):
        return "ws://127.0.0.1:%d/" % self.port

    def stop(self, sig=signal.SIGTERM):
        return self.process.kill(sig)


class Daemon:
    def __init__(self, lab, name, config="", start=True):
        self.lab, self.name, self.process = lab, name, None
        self.dir = os.path.join(lab.dir, name)
        for d in ("run", "state", "config/e2eed"):
            os.makedirs(os.path.join(self.dir, d), mode=0o700, exist_ok=True)
        self.socket = os.path.join(self.dir, "run/e2eed/default.sock")
        self.state = os.path.join(self.dir, "state/e2eed/default")
        if config:
            with open(os.path.join(self.dir, "config/e2eed/default.conf"), "w") as f:
                f.write(config)
        if start:
            self.start()

    @property
    def env(self):
        return {"XDG_RUNTIME_DIR": self.dir + "/run", "XDG_STATE_HOME": self.dir + "/state", "XDG_CONFIG_HOME": self.dir + "/config", "HOME": self.dir}

    def spawn(self, **more):
        self.process = Process([os.path.join(BIN, "e2eed")], self.dir + "/log", env=self.env, **more)

    def start(self, **more):
        self.spawn(**more)
        def ready():
            check(self.process.running(), "the daemon of %s ended: %s" % (self.name, self.lab.tail(self.process.log)))
            try:
                self.client().close()
                return True
            except OSError:
                return False
        wait_until(ready, "the daemon of %s listens" % self.name, 30)
        return self

    def client(self, timeout=30.0):
        return Client(self.socket, timeout)

    def link_pid(self):
        """The pid of its link process, or None."""
        out = subprocess.run(["pgrep", "-P", str(self.process.p.pid), "-f", "e2eed-link-ws"], capture_output=True, text=True).stdout.split()
        return int(out[0]) if out else None

    def stop(self, sig=signal.SIGTERM):
        return self.process.kill(sig)

    def online(self, seconds=30):
        def state():
            try:
                c = self.client()
                try:
                    return c.call("status")["state"] == "online"
                finally:
                    c.close()
            except OSError:
                return False
        wait_until(state, "%s is online" % self.name, seconds, 0.05)
        return self

    def events(self, after=0, types=None):
        """The whole log, page by page."""
        c, out = self.client(), []
        try:
            while True:
                page = c.call("events", after=after, limit=500, **({"types": types} if types else {}))["events"]
                if not page:
                    return out
                out += page
                after = page[-1]["seq"]
        finally:
            c.close()

    def ctl(self, *argv, input=None, timeout=60):
        return subprocess.run([os.path.join(BIN, "e2eectl"), "--socket", self.socket, *argv], input=input, capture_output=True, timeout=timeout)


class Lab:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="e2eed-lab.")
        self.parts = []

    def tail(self, path, n=600):
        try:
            return open(path, errors="replace").read()[-n:]
        except OSError:
            return ""

    def relay(self, *args, name="relay"):
        r = Relay(self, name, args)
        self.parts.append(r)
        return r

    def daemon(self, name, config="", start=True):
        d = Daemon(self, name, config, start)
        self.parts.append(d)
        return d

    def account(self, name, relay, config=""):
        """A daemon with an account of that name at the relay."""
        d = self.daemon(name, config)
        c = d.client()
        c.call("account.create", user=name, relay=relay.url)
        c.close()
        return d

    def pair(self, *relay_args):
        relay = self.relay(*relay_args)
        return relay, self.account("alice", relay), self.account("bob", relay)

    def faults(self):
        """Lines of sanitizers and of our own faults in the logs."""
        found = []
        for part in self.parts:
            log = part.process.log if part.process else None
            if log and os.path.exists(log):
                for line in open(log, errors="replace"):
                    if re.search(r"AddressSanitizer|LeakSanitizer|runtime error|: fault:|Assertion", line):
                        found.append("%s: %s" % (part.name, line.strip()))
        return found

    def end(self):
        for part in self.parts:
            if part.process and part.process.running():
                part.stop(signal.SIGTERM)
        found = self.faults()
        if not os.environ.get("E2EED_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        check(not found, "; ".join(found[:4]))


TESTS = []


def test(f):
    TESTS.append(f)
    return f


def main():
    """Runs the tests of the calling file whose names hold an argument (all without one); prints `N passed, N failed`."""
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
    passed = failed = 0
    for f in TESTS:
        if wanted and not any(w in f.__name__ for w in wanted):
            continue
        lab, began = Lab(), time.monotonic()
        try:
            try:
                f(lab)
            finally:
                where = lab.dir
                logs = {p.name: lab.tail(p.process.log) for p in lab.parts if p.process}
                lab.end()
            passed += 1
            print("ok   %s (%.1fs)" % (f.__name__, time.monotonic() - began), flush=True)
        except Exception as e:
            failed += 1
            print("FAIL %s: %s" % (f.__name__, e), flush=True)
            if not isinstance(e, Failure):
                traceback.print_exc()
            for name, text in logs.items():
                print("  log of %s: %s" % (name, text.replace("\n", "\n    ")), flush=True)
            if os.environ.get("E2EED_KEEP"):
                print("  kept: " + where)
    print("%d passed, %d failed" % (passed, failed), flush=True)
    sys.exit(1 if failed else 0)
