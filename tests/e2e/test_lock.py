"""Locking and unlocking, sources of the storage key, and what stays in memory afterwards."""
import lab, os, random, re, signal, subprocess, sys, threading, time
from lab import BIN, Client, check, test, wait_until

CHEAP = "[storage]\npassphrase_memory = 8\n"
PASS = "correct horse 7Xq battery"


def has(d, name):
    return os.path.exists(os.path.join(d.state, name))


def state(d):
    c = d.client()
    try:
        return c.call("status")["state"]
    finally:
        c.close()


def unlock(c, passphrase, **more):
    """After the delay that an earlier wrong one has brought."""
    while True:
        try:
            return c.call("unlock", passphrase=passphrase, **more)
        except lab.RpcError as e:
            if e.name != "RATE_LIMITED":
                raise
            time.sleep(0.2)


@test
def passphrase_from_setting_to_removal(l):
    relay = l.relay()
    alice, bob = l.account("alice", relay, CHEAP), l.account("bob", relay)
    a, b = alice.client(), bob.client()
    b.call("wait", id=b.call("send", to="alice", text="warm")["id"], timeout_ms=20000)
    check(a.error_of("unlock", passphrase="x", new_passphrase="y").name == "INVALID_PARAMS", "there is no old one")
    check(a.call("unlock", new_passphrase=PASS) == {"state": "unlocked", "key": "passphrase"}, "set")
    check(has(alice, "storage.pass") and not has(alice, "storage.key"), "the key file is gone")
    check(os.stat(alice.state + "/storage.pass").st_mode & 0o777 == 0o600, "mode")
    alice.stop()
    alice.start()
    a = alice.client()
    check(a.call("status")["state"] == "locked" and a.call("hello")["account"] == "default" and a.call("api_info")["methods"], "locked")
    health = a.call("health")
    check(health["ok"] is False and health["key"] == "passphrase" and "unlock" in health["text"], "health: %r" % health)
    for method, params in (("send", {"to": "bob", "text": "x"}), ("subscribe", {"after": 0}), ("unsubscribe", {}), ("events", {}), ("account.show", {}),
                           ("account.create", {"user": "x", "relay": relay.url}), ("contact.list", {}), ("unlock", {"passphrase": PASS, "new_passphrase": "z"})):
        e = a.error_of(method, **params)
        check(e.name == "LOCKED" and "unlock" in e.text, "%s: %s" % (method, e))
    check(a.error_of("unlock").name == "INVALID_PARAMS", "a passphrase is needed")
    sent = b.call("send", to="alice", text="while you were locked")
    e = a.error_of("unlock", passphrase="wrong")
    check(e.name == "WRONG_PASSPHRASE", str(e))
    check(a.error_of("unlock", passphrase=PASS).name == "RATE_LIMITED", "not at once")
    check(unlock(a, PASS)["state"] == "unlocked", "unlocked")
    check(b.call("wait", id=sent["id"], timeout_ms=20000)["state"] == "delivered", "what waited comes")
    check([e["text"] for e in alice.events(types=["message"])] == ["warm", "while you were locked"], "each once")
    check(a.error_of("unlock", new_passphrase="n").name == "INVALID_PARAMS", "the old one is needed")
    check(a.error_of("unlock", passphrase="wrong", new_passphrase="n").name == "WRONG_PASSPHRASE", "the right one")
    check(unlock(a, PASS, new_passphrase="second")["key"] == "passphrase", "changed")
    a.call("lock")
    check(a.error_of("unlock", passphrase=PASS).name == "WRONG_PASSPHRASE", "the old one is out of force")
    unlock(a, "second")
    check(a.call("unlock", passphrase="second", new_passphrase="")["key"] == "file", "removed")
    check(has(alice, "storage.key") and not has(alice, "storage.pass"), "the key file is back")
    alice.stop()
    alice.start().online()


@test
def lock_with_subscribers_and_calls_in_flight(l):
    relay, alice, bob = l.pair()
    a, waiting, reader, other = alice.client(), alice.client(), alice.client(), alice.client()
    a.call("wait", id=a.call("send", to="bob", text="warm")["id"], timeout_ms=20000)
    bob.stop()
    late = a.call("send", to="bob", text="later")
    flight = waiting.start("wait", id=late["id"], timeout_ms=60000)
    reader.call("subscribe", after=0)
    other.call("status")
    link = alice.link_pid()
    check(a.call("lock") == {"state": "locked", "key": "file"}, "locked")
    check(not os.path.exists("/proc/%d" % link), "the link has ended")
    try:
        waiting.finish(flight)
        raise lab.Failure("a wait was answered by a locked daemon")
    except lab.RpcError as e:
        check(e.name == "LOCKED", str(e))
    raw = []
    reader.sock.settimeout(10)
    try:
        while True:
            data = reader.sock.recv(65536)
            if not data:
                break
            raw.append(data)
    except ConnectionResetError:
        pass
    check(b"LOCKED" in b"".join(raw), "the subscriber is told and its connection ends")
    check(other.call("status")["state"] == "locked" and a.call("lock")["state"] == "locked", "others stay connected")
    bob.start()
    check(a.call("unlock")["state"] == "unlocked", "the key file opens it")
    check(a.call("wait", id=late["id"], timeout_ms=30000)["state"] == "delivered", "the queue goes on")


@test
def others_are_served_while_a_passphrase_is_tried(l):
    d = l.daemon("alice", "[storage]\npassphrase_memory = 256\n")
    a, b = d.client(60), d.client()
    busy = a.start("unlock", new_passphrase=PASS)
    slowest, n = 0, 0
    while busy not in a.answers:
        began = time.monotonic()
        b.call("status")
        slowest, n = max(slowest, time.monotonic() - began), n + 1
        a.sock.settimeout(0.001)
        try:
            a._pump()
        except (TimeoutError, OSError):
            pass
    a.sock.settimeout(60)
    a.finish(busy)
    check(n > 20 and slowest < 0.5, "%d calls, the slowest %.2fs" % (n, slowest))
    first, second = a.start("unlock", passphrase=PASS, new_passphrase="b"), a.start("unlock", passphrase=PASS, new_passphrase="c")
    try:
        a.finish(second)
        raise lab.Failure("two at once")
    except lab.RpcError as e:
        check(e.name == "RATE_LIMITED", str(e))
    a.call("lock")
    a.finish(first)
    third = a.start("unlock", passphrase="b")
    check(b.call("lock")["state"] == "locked", "lock does not wait")
    try:
        a.finish(third)
        raise lab.Failure("unlocked after a lock")
    except lab.RpcError as e:
        check(e.name == "LOCKED" and b.call("status")["state"] == "locked", str(e))
    fourth = a.start("unlock", passphrase="b")
    d.stop()
    check(d.process.p.returncode == 0, "a clean end in the middle of it")


@test
def command_line(l):
    d = l.daemon("alice", CHEAP)
    def ctl(*argv, input=b"", want=0):
        p = d.ctl(*argv, input=input)
        check(p.returncode == want, "%r: %d %s" % (argv, p.returncode, p.stderr))
        return p.stderr.decode()
    secret = l.dir + "/pass"
    open(secret, "w").write("from a file\nsecond line\n")
    ctl("passphrase", "change", input=b"a\nb\n", want=64)
    ctl("passphrase", "set", input=b"\n", want=65)
    ctl("passphrase", "set", input=b"from stdin\n")
    ctl("passphrase", "set", input=b"again\n", want=64)
    ctl("passphrase", "change", "--new-passphrase-file", secret, input=b"from stdin\n")
    check("passphrase" not in ctl("lock"), "silent with a passphrase")
    check("locked" in ctl("send", "bob", "x", want=75), "says so")
    check("not the passphrase" in ctl("unlock", input=b"nonsense\n", want=77), "wrong")
    time.sleep(1.1)
    ctl("unlock", "--passphrase-file", secret)
    ctl("unlock")
    ctl("passphrase", "change", input=b"from a file\nthe third\n")
    ctl("passphrase", "remove", input=b"the third")
    check("no passphrase is set" in ctl("lock"), "a hint")
    ctl("unlock")


@test
def credential(l):
    d = l.daemon("alice", start=False)
    creds = l.dir + "/creds"
    os.makedirs(creds, mode=0o700)
    key = bytes(random.randrange(256) for _ in range(32))
    def put(name, mode=0o400):
        with open(creds + "/" + name, "wb") as f:
            f.write(key.hex().encode() + b"\n")
        os.chmod(creds + "/" + name, mode)
    def run(conf=""):
        open(d.dir + "/config/e2eed/default.conf", "w").write(conf)
        p = subprocess.run([os.path.join(BIN, "e2eed")], env={**os.environ, **d.env, "CREDENTIALS_DIRECTORY": creds}, capture_output=True, text=True, timeout=20)
        return p.returncode, p.stderr
    os.environ["CREDENTIALS_DIRECTORY"] = creds
    try:
        put("e2eed.storage-key")
        d.start()
        c = d.client()
        check(c.call("health")["key"] == "credential" and not has(d, "storage.key"), "taken by itself")
        check(c.error_of("unlock", new_passphrase="x").name == "FORBIDDEN", "no passphrase beside it")
        c.call("lock")
        check(c.call("unlock")["state"] == "unlocked", "and again")
        d.stop()
        os.rename(creds + "/e2eed.storage-key", creds + "/mine")
        open(d.dir + "/config/e2eed/default.conf", "w").write("[storage]\nkey = credential:mine\n")
        d.start()
        d.stop()
        os.chmod(creds + "/mine", 0o644)
        rc, text = run("[storage]\nkey = credential:mine\n")
        check(rc == 77 and "mine" in text, "mode: %d %s" % (rc, text))
        rc, text = run("[storage]\nkey = credential:none\n")
        check(rc == 74 and "none" in text, "missing: %d %s" % (rc, text))
        rc, text = run("[storage]\nkey = credential:../x\n")
        check(rc == 78 and "credential:NAME" in text, "name: %d %s" % (rc, text))
        rc, text = run("[storage]\nkey = file\n")
        check(rc == 77 and "key" in text, "another key: %d %s" % (rc, text))
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]


@test
def passphrase_file_that_is_not_for_us(l):
    d = l.daemon("alice", CHEAP)
    d.client().call("unlock", new_passphrase=PASS)
    d.stop()
    path = d.state + "/storage.pass"
    good = open(path, "rb").read()
    def run():
        p = subprocess.run([os.path.join(BIN, "e2eed")], env={**os.environ, **d.env}, capture_output=True, text=True, timeout=20)
        return p.returncode, p.stderr
    os.chmod(path, 0o640)
    rc, text = run()
    check(rc == 77 and "chmod 600" in text, "mode: %d %s" % (rc, text))
    os.chmod(path, 0o600)
    for bad in (good[:-1], good + b"x", good[:50] + bytes([good[50] ^ 1]) + good[51:], b""):
        open(path, "wb").write(bad)
        rc, text = run()
        check(rc == 65 and "damaged" in text, "%d bytes: %d %s" % (len(bad), rc, text))
    open(path, "wb").write(good)
    open(d.state + "/storage.key", "wb").write(bytes(range(32)))
    os.chmod(d.state + "/storage.key", 0o600)
    d.start()
    c = d.client()
    unlock(c, PASS)
    check(open(d.state + "/storage.key", "rb").read() == bytes(range(32)), "another key is not ours to remove")
    check(c.error_of("unlock", passphrase=PASS, new_passphrase="").name == "STORAGE" and has(d, "storage.pass"), "nor to replace")


@test
def half_done_steps_are_completed(l):
    d = l.daemon("alice", CHEAP)
    key = open(d.state + "/storage.key", "rb").read()
    d.client().call("unlock", new_passphrase=PASS)
    for left in (key, key.hex().encode() + b"\n", bytes(32), b""):
        d.stop()
        for name, data in (("storage.key", left), ("storage.pass.new", b"torn")):
            with open(os.path.join(d.state, name), "wb") as f:
                f.write(data)
            os.chmod(os.path.join(d.state, name), 0o600)
        d.start()
        check(state(d) == "locked", "the passphrase counts")
        unlock(d.client(), PASS)
        check(not has(d, "storage.key") and not has(d, "storage.pass.new"), "completed: %r" % left)


@test
def killed_while_the_passphrase_changes(l):
    d = l.daemon("alice", CHEAP)
    dice, known = random.Random(int(os.environ.get("E2EED_SEED", "3"))), [PASS]
    for i in range(int(os.environ.get("E2EED_KILLS", "12"))):
        c = d.client()
        if c.call("status")["state"] == "locked":
            for p in known:
                try:
                    unlock(c, p)
                    current = p
                    break
                except lab.RpcError as e:
                    check(e.name == "WRONG_PASSPHRASE", str(e))
            check(c.call("status")["state"] != "locked", "round %d: no passphrase opens it" % i)
            check(not has(d, "storage.key"), "round %d: the half-done step is completed" % i)
            fresh = "" if i % 3 == 2 else "p%d" % i
            known = [p for p in (current, fresh) if p]
            c.start("unlock", passphrase=current, new_passphrase=fresh)
        else:
            known = ["p%d" % i]
            c.start("unlock", new_passphrase=known[0])
        time.sleep(dice.uniform(0.0, 0.12))
        d.stop(signal.SIGKILL)
        d.start()


def memory(pid):
    """All that the process has in its memory and that can be read."""
    out = []
    with open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in open("/proc/%d/maps" % pid):
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S)(\S)", line)
            if m.group(3) != "r" or "[v" in line:
                continue
            at, end = int(m.group(1), 16), int(m.group(2), 16)
            try:
                mem.seek(at)
                out.append(mem.read(end - at))
            except (OSError, ValueError, OverflowError):
                pass
    return out


@test
def nothing_is_left_in_memory(l):
    if os.getuid() != 0:
        print("     skipped: needs root to read the daemon's memory")
        return
    if b"__asan_init" in open(os.path.join(BIN, "e2eed"), "rb").read():
        print("     skipped: the sanitizer keeps freed memory; run with a plain build")
        return
    relay = l.relay()
    alice, bob = l.account("alice", relay, CHEAP), l.account("bob", relay)
    pid = alice.process.p.pid
    a, b = alice.client(), bob.client()
    texts = [b"canary-out-%s" % os.urandom(9).hex().encode(), b"canary-in-%s" % os.urandom(9).hex().encode()]
    key = open(alice.state + "/storage.key", "rb").read()
    reader = alice.client()
    reader.call("subscribe", after=0)
    for i in range(10):
        a.call("wait", id=a.call("send", to="bob", text=texts[0].decode() + " %d" % i)["id"], timeout_ms=20000)
        b.call("wait", id=b.call("send", to="alice", text=texts[1].decode() + " %d" % i)["id"], timeout_ms=20000)
    passphrase = "canary-pass-" + os.urandom(9).hex()
    a.call("unlock", new_passphrase=passphrase)
    a.call("lock")
    parts = lab.msgpack.packb([0, 900, "unlock", [{"passphrase": passphrase}]])
    a.sock.sendall(parts[:-3])
    time.sleep(0.2)
    a.sock.sendall(parts[-3:])
    a.finish(900)
    alice.events(types=["message"])
    def found():
        blocks = memory(pid)
        return [name for name, needle in (("text sent", texts[0]), ("text received", texts[1]), ("passphrase", passphrase.encode()), ("storage key", key), ("half a request", held)) if any(needle in m for m in blocks)]
    # The control: a request that the daemon cannot finish, because its second half never comes, lies in its memory.
    half = alice.client()
    held = b"canary-half-" + os.urandom(9).hex().encode()
    half.sock.sendall(b"\x94\x00\x01\xa4send\x91\x81\xa4text\xda\x10\x00" + held)
    wait_until(lambda: any(held in m for m in memory(pid)), "the scan sees what is there", 10)
    check("half a request" in found(), "the control")
    open_pages = sum(len(m) for m in memory(pid))
    check(open_pages > 1 << 20, "the scan reads %d bytes" % open_pages)
    a.call("lock")
    check(found() == [], "left after lock: %s" % found())
    check(a.call("status")["state"] == "locked", "alive")
    unlock(a, passphrase)
    check(len(alice.events(types=["message"])) == 10, "nothing is lost")


lab.main()
