"""Bad input, full disks, slow readers, strangers at the socket, damaged or newer state: a clear error, and nothing is lost."""
import lab, os, random, signal, socket, sqlite3, struct, subprocess, time
from lab import BIN, Client, check, test, wait_until

import msgpack


def texts(daemon):
    return [e["text"] for e in daemon.events(types=["message"])]


def talk(path, data, seconds=3.0):
    """What the daemon says to raw bytes until it closes or falls silent."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(seconds)
    s.connect(path)
    out, closed = b"", False
    try:
        s.sendall(data)
        while True:
            got = s.recv(65536)
            if not got:
                closed = True
                break
            out += got
    except socket.timeout:
        pass
    except (BrokenPipeError, ConnectionResetError):
        closed = True
    s.close()
    return out, closed


@test
def malformed_messages_at_the_local_socket(l):
    d = l.daemon("alice")
    cases = {
        "8 GiB array": b"\xdd\x10\x00\x00\x00",
        "4 GiB string": b"\x94\x00\x01\xdb\xff\xff\xff\xff",
        "deep arrays": b"\x94\x00\x01\xa6status" + b"\x91" * 100000,
        "deep maps": b"\x94\x00\x01\xa6status\x91" + b"\x81\xa1a" * 5000,
        "extension": b"\x94\x00\x01\xa6status\x91\xc7\x05\x01hello",
        "reserved byte": b"\xc1" * 10,
        "text": b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n" * 9,
        "map": b"\x81\xa1a\x01",
        "wrong kind": msgpack.packb([7, 1, "status", []]),
        "short array": msgpack.packb([0, 1]),
        "method is a number": msgpack.packb([0, 1, 7, []]),
        "2 MiB string": msgpack.packb([0, 1, "send", [{"to": "x", "text": "y" * (2 << 20)}]]),
        "length of a framed message": b"\xce\x7f\xff\xff\xff",
    }
    for name, data in cases.items():
        out, closed = talk(d.socket, data)
        check(closed or out, "%s: neither an answer nor an end" % name)
        check(d.client().call("status")["state"] == "none", "alive after " + name)
    dice = random.Random(5)
    for i in range(200):
        base = bytearray(msgpack.packb([0, i, "send", [{"to": "bob", "text": "hello", "qos": 2}]]))
        for _ in range(dice.randrange(1, 6)):
            base[dice.randrange(len(base))] = dice.randrange(256)
        talk(d.socket, bytes(base), 0.02)
    check(d.client().call("health")["store"] is True, "alive after noise")


@test
def parameters_are_named_in_errors(l):
    c = l.daemon("alice").client()
    for params, words in (({"to": "bob", "txt": "x"}, ["txt", "unknown"]), ({"to": 7, "text": "x"}, ["to", "string"]), ({"text": "x"}, ["to", "required"]),
                          ({"to": "bob", "text": "x", "qos": 3}, ["qos"]), ({"to": "bob", "text": "x", "qos": "two"}, ["qos", "string"])):
        e = c.error_of("send", **params)
        check(e.name == "INVALID_PARAMS" and e.code == 1 and all(w in e.text for w in words), "%r: %s" % (params, e))
    e = c.error_of("group.create", group="ops")
    check(e.name == "METHOD_NOT_FOUND", str(e))
    info = c.call("api_info")
    check("group.create" not in str(info), "what is not built is absent from api_info")
    check(c.error_of("send", to="bob", text="x").name == "NO_ACCOUNT", "no account")


@test
def reader_that_never_reads(l):
    _, alice, bob = l.pair()
    a = alice.client()
    a.call("wait", id=a.call("send", to="bob", text="first")["id"], timeout_ms=20000)
    stalled = []
    for _ in range(5):
        c = bob.client()
        c.start("subscribe", after=0)
        stalled.append(c)
    lazy = bob.client()
    for _ in range(2000):
        try:
            lazy.sock.settimeout(0.2)
            lazy.start("events", after=0, limit=500)
        except socket.timeout:
            break
    def memory():
        return int([x for x in open("/proc/%d/status" % bob.process.p.pid) if x.startswith("VmRSS")][0].split()[1])
    before = memory()
    ids = [a.start("send", to="bob", text="%d " % i + "x" * 4000) for i in range(1500)]
    for i in ids:
        a.finish(i)
    live = bob.client()
    began = time.monotonic()
    live.call("subscribe", after=0, types=["message"])
    for i in range(1501):
        live.event(type="message", seconds=60)
    check(memory() - before < 64 << 10, "memory grew by %d KiB" % (memory() - before))
    check(live.call("status")["state"] == "online", "others are served")
    late = stalled[0]
    for i in range(1501):
        late.event(type="message", seconds=60)


@test
def another_user_at_the_socket(l):
    if os.getuid() != 0:
        print("     skipped: needs root to become another user")
        return
    os.chmod(l.dir, 0o755)
    d = l.daemon("alice")
    for path in (d.dir, d.dir + "/run", d.dir + "/run/e2eed"):
        os.chmod(path, 0o755)
    os.chmod(d.socket, 0o777)
    code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]); s.sendall(bytes.fromhex('940001a673746174757390')); d=s.recv(99); sys.exit(0 if d==b'' or b'status' not in d and b'state' not in d else 1)"
    p = subprocess.run(["/usr/bin/python3", "-c", code, d.socket], user=65534, group=65534, capture_output=True, text=True)
    check(p.returncode == 0 or "reset" in p.stderr.lower() or "refused" in p.stderr.lower() or "Broken" in p.stderr, "refused: %s" % p.stderr[-200:])
    check(d.client().call("status")["state"] == "none", "our own user is served")
    code_ok = code.replace("d==b'' or b'status' not in d and b'state' not in d", "b'state' in d")
    p = subprocess.run(["/usr/bin/python3", "-c", code_ok, d.socket], capture_output=True, text=True)
    check(p.returncode == 0, "the probe itself works: " + p.stderr[-200:])


@test
def second_daemon_on_the_same_account(l):
    d = l.daemon("alice")
    p = subprocess.run([os.path.join(BIN, "e2eed")], env={**os.environ, **d.env}, capture_output=True, text=True, timeout=20)
    check(p.returncode == 69, "exit status %d: %s" % (p.returncode, p.stderr))
    check("e2eed" in p.stderr and p.stderr.strip(), "says why: " + p.stderr)
    check(d.client().call("status")["state"] == "none", "the first one goes on")


@test
def full_disk_loses_nothing(l):
    if os.getuid() != 0:
        print("     skipped: needs root to mount a small file system")
        return
    relay, alice, bob = l.pair()
    a = alice.client()
    a.call("wait", id=a.call("send", to="bob", text="warm")["id"], timeout_ms=20000)
    alice.stop()
    small = alice.dir + "/small"
    os.makedirs(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "none", small], check=True)
    try:
        subprocess.run("mv %s/state/e2eed %s/ && rmdir %s/state && ln -s %s %s/state" % (alice.dir, small, alice.dir, small, alice.dir), shell=True, check=True)
        alice.start().online()
        relay.stop()
        a = alice.client()
        sent, error = [], None
        for i in range(3000):
            try:
                a.call("send", to="bob", bytes=b"%d " % i + b"x" * 3000, id="m%d" % i)
                sent.append("m%d" % i)
            except lab.RpcError as e:
                error = e
                break
        check(error and error.name == "DISK_FULL", "error: %s" % error)
        check(len(sent) > 50, "some were accepted")
        check(alice.process.running() and a.call("status")["user"] == "alice", "the daemon stays")
        for i in range(20):
            check(a.error_of("send", to="bob", bytes=b"y" * 60000).name == "DISK_FULL", "still full")
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        relay.start()
        a.call("send", to="bob", text="there is room again")
        wait_until(lambda: len(bob.events(types=["message"])) >= len(sent) + 2, "all that was accepted", 90, 0.5)
        got = [e["id"] for e in bob.events(types=["message"])]
        check(len(got) == len(set(got)) == len(sent) + 2 and set(sent) <= set(got), "each once")
        alice.stop()
    finally:
        alice.stop(signal.SIGKILL)
        subprocess.run(["umount", "-l", small])


@test
def full_disk_at_the_relay(l):
    if os.getuid() != 0:
        print("     skipped: needs root to mount a small file system")
        return
    small = l.dir + "/relay"
    os.makedirs(small, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", small], check=True)
    try:
        relay, alice, bob = l.pair()
        a = alice.client()
        a.call("wait", id=a.call("send", to="bob", text="warm")["id"], timeout_ms=20000)
        bob.stop()
        for i in range(300):
            a.call("send", to="bob", bytes=b"x" * 20000, id="m%d" % i)
        time.sleep(2)
        check(a.call("status")["queued"] > 0, "the rest waits at the sender")
        subprocess.run(["mount", "-o", "remount,size=256m", small], check=True)
        bob.start()
        wait_until(lambda: len(bob.events(types=["message"])) >= 301, "everything, once there is room", 120, 0.5)
        got = [e["id"] for e in bob.events(types=["message"])]
        check(len(got) == len(set(got)) == 301, "each once")
    finally:
        for p in l.parts:
            p.stop(signal.SIGTERM)
        subprocess.run(["umount", "-l", small])


@test
def state_that_is_not_for_us(l):
    d = l.daemon("alice")
    d.stop()
    def run():
        p = subprocess.run([os.path.join(BIN, "e2eed")], env={**os.environ, **d.env}, capture_output=True, text=True, timeout=20)
        return p.returncode, p.stderr
    key = d.state + "/storage.key"
    os.chmod(key, 0o644)
    rc, text = run()
    check(rc == 77 and "storage.key" in text, "readable key: %d %s" % (rc, text))
    os.chmod(key, 0o600)
    good = open(key, "rb").read()
    open(key, "wb").write(bytes(range(32)))
    rc, text = run()
    check(rc == 77 and "key" in text, "wrong key: %d %s" % (rc, text))
    open(key, "wb").write(good)
    db = sqlite3.connect(d.state + "/state.db")
    version = db.execute("pragma user_version").fetchone()[0]
    db.execute("pragma user_version = %d" % (version + 1))
    db.close()
    rc, text = run()
    check(rc == 78 and str(version + 1) in text, "newer state: %d %s" % (rc, text))
    db = sqlite3.connect(d.state + "/state.db")
    db.execute("pragma user_version = %d" % version)
    db.close()
    d.start()


@test
def configuration_and_arguments(l):
    d = l.daemon("alice", start=False)
    def run(*argv, config=None):
        path = d.dir + "/config/e2eed/default.conf"
        if config is not None:
            open(path, "w").write(config)
        p = subprocess.run([os.path.join(BIN, "e2eed"), *argv], env={**os.environ, **d.env}, capture_output=True, text=True, timeout=20)
        return p.returncode, p.stderr
    for argv, word in ((["--acount", "x"], "acount"), (["extra"], "extra"), (["--account"], "account")):
        rc, text = run(*argv)
        check(rc == 64 and word in text, "%r: %d %s" % (argv, rc, text))
    for config, words in (("[account]\nstrangers = maybe\n", ["strangers", "maybe", "hold"]), ("[acount]\nx = 1\n", ["acount", "unknown"]), ("nonsense\n", ["line 1"])):
        rc, text = run(config=config)
        check(rc == 78 and all(w in text for w in words), "%r: %d %s" % (config, rc, text))
    rc, text = run("--account", "../x", config="")
    check(rc == 78 and "account name" in text, "account name: %d %s" % (rc, text))
    rc, text = run("--config", "/nonexistent")
    check(rc == 78 and "/nonexistent" in text, "no such file: %d %s" % (rc, text))


@test
def link_that_hangs(l):
    _, alice, bob = l.pair()
    a = alice.client()
    a.call("wait", id=a.call("send", to="bob", text="warm")["id"], timeout_ms=20000)
    os.kill(alice.link_pid(), signal.SIGSTOP)
    sent = a.call("send", to="bob", text="through a new link")
    wait_until(lambda: "through a new link" in texts(bob), "a hanging link is replaced", 90, 0.5)


@test
def strangers_held_and_refused(l):
    relay = l.relay()
    alice = l.account("alice", relay)
    hold = l.account("hold", relay, "[account]\nstrangers = hold\n")
    refuse = l.account("refuse", relay, "[account]\nstrangers = refuse\n")
    a, h = alice.client(), hold.client()
    h.call("subscribe", after=0)
    one = a.call("send", to="hold", text="let me in")
    two = a.call("send", to="refuse", text="and me")
    h.event(type="error", code="STRANGER_HELD")
    check(a.error_of("wait", id=one["id"], timeout_ms=1500).name == "TIMEOUT" and a.error_of("wait", id=two["id"], timeout_ms=500).name == "TIMEOUT", "no receipts")
    check(texts(hold) == [] == texts(refuse), "no events")
    h.call("contact.trust", user="alice")
    check(a.call("wait", id=one["id"], timeout_ms=20000)["state"] == "delivered", "let in")
    check(texts(hold) == ["let me in"], "delivered once")


@test
def no_plaintext_and_no_key_on_any_disk(l):
    relay, alice, bob = l.pair()
    a = alice.client()
    marker = "CANARY-" + "%032x" % random.getrandbits(128)
    a.call("wait", id=a.call("send", to="bob", text=marker)["id"], timeout_ms=20000)
    bob.stop()
    a.call("wait", id=a.call("send", to="bob", text=marker + "2")["id"], until="sent", timeout_ms=20000)
    key = open(alice.state + "/storage.key", "rb").read()
    seen = 0
    for root, _, files in os.walk(l.dir):
        for f in files:
            data = open(os.path.join(root, f), "rb").read() if os.path.isfile(os.path.join(root, f)) else b""
            check(marker.encode() not in data, "plaintext in %s" % f)
            check(f == "storage.key" or key not in data, "the storage key in %s" % f)
            seen += len(data)
    check(seen > 100000, "the files were read")


lab.main()
