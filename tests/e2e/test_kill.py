"""kill -9 at random moments, of each process in turn: nothing acknowledged is lost, nothing arrives twice, order is kept.

The number of kills of each kind is $E2EED_KILLS (50); the seed of the moments is printed and taken from $E2EED_SEED.
"""
import lab, os, random, signal, subprocess, threading, time
from lab import BIN, check, test, wait_until

KILLS = int(os.environ.get("E2EED_KILLS", "50"))
SEED = int(os.environ.get("E2EED_SEED", str(random.randrange(1 << 30))))
print("seed %d, %d kills of each kind" % (SEED, KILLS), flush=True)


class Writer(threading.Thread):
    """Sends numbered messages without end, each repeated under its id until it is acknowledged."""

    def __init__(self, daemon, to):
        super().__init__(daemon=True)
        self.from_, self.to, self.acked, self.n, self.end, self.fault = daemon, to, [], 0, False, None

    def run(self):
        client = None
        while not self.end:
            id = "%s-%d" % (self.from_.name, self.n)
            try:
                client = client or self.from_.client(20)
                client.call("send", to=self.to, text=id, id=id)
                self.acked.append(id)
                self.n += 1
                time.sleep(0.004)
            except lab.RpcError as e:
                if e.name not in ("SHUTTING_DOWN", "STORAGE", "QUEUE_FULL"):
                    self.fault = e
                    return
                time.sleep(0.05)
            except (OSError, ConnectionError):
                client = None
                time.sleep(0.02)


def compare(writer, reader, seconds=120):
    writer.end = True
    writer.join(30)
    check(writer.fault is None, "the writer met %s" % writer.fault)
    sent = writer.acked
    wait_until(lambda: reader.online() and sum(e["text"].startswith(writer.from_.name) for e in reader.events(types=["message"])) >= len(sent),
               "all %d of %s arrive" % (len(sent), writer.from_.name), seconds, 0.5)
    got = [e["text"] for e in reader.events(types=["message"]) if e["text"].startswith(writer.from_.name)]
    check(len(got) == len(set(got)), "%d arrived twice" % (len(got) - len(set(got))))
    check(set(sent) <= set(got), "lost: %r" % sorted(set(sent) - set(got))[:5])
    check(len(got) <= len(sent) + 1, "more than was sent")
    return len(sent), got == sorted(got, key=lambda t: int(t.rsplit("-", 1)[1]))


def campaign(l, kill):
    relay, alice, bob = l.pair()
    dice = random.Random(SEED)
    writers = [Writer(alice, "bob"), Writer(bob, "alice")]
    for w in writers:
        w.start()
    kills = 0
    while kills < KILLS:
        time.sleep(dice.uniform(0.05, 0.5))
        kills += kill(dice, relay, alice, bob) or 0
    for w, reader in ((writers[0], bob), (writers[1], alice)):
        n, in_order = compare(w, reader)
        print("  %s: %d acknowledged, %d kills, in order: %s" % (w.from_.name, n, kills, in_order), flush=True)
        check(n >= KILLS, "too few messages to mean anything: %d" % n)


@test
def kill_daemon(l):
    def kill(dice, relay, alice, bob):
        d = dice.choice([alice, bob])
        d.stop(signal.SIGKILL)
        d.start()
        return 1
    campaign(l, kill)


@test
def kill_link(l):
    def kill(dice, relay, alice, bob):
        pid = dice.choice([alice, bob]).link_pid()
        if not pid:
            return 0
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return 0
        return 1
    campaign(l, kill)


@test
def kill_relay(l):
    def kill(dice, relay, alice, bob):
        relay.stop(signal.SIGKILL)
        relay.start()
        return 1
    campaign(l, kill)


@test
def kill_everything(l):
    def kill(dice, relay, alice, bob):
        for part in dice.sample([relay, alice, bob], 2):
            part.stop(signal.SIGKILL)
            part.start()
        return 2
    campaign(l, kill)


@test
def kill_client(l):
    """e2eectl send under kill -9: what it acknowledged (exit 0) arrives once, what it did not at most once."""
    _, alice, bob = l.pair()
    dice = random.Random(SEED)
    alice.ctl("send", "bob", "alice-first", "--wait=delivered")
    sure, killed = ["alice-first"], 0
    i = 0
    while killed < KILLS:
        text = "alice-%d" % i
        i += 1
        p = subprocess.Popen([os.path.join(BIN, "e2eectl"), "--socket", alice.socket, "send", "bob", text, "--id", text],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if p.wait(dice.uniform(0.0, 0.25)) == 0:
                sure.append(text)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            killed += 1
    wait_until(lambda: set(sure) <= {e["text"] for e in bob.events(types=["message"])}, "all that was acknowledged", 60, 0.3)
    got = [e["text"] for e in bob.events(types=["message"])]
    check(len(got) == len(set(got)), "twice")
    print("  %d acknowledged, %d killed, %d arrived" % (len(sure), killed, len(got)), flush=True)


@test
def kill_consumer(l):
    """A named consumer killed between events sees each of them; none that it has acknowledged comes again."""
    _, alice, bob = l.pair()
    a, dice = alice.client(), random.Random(SEED)
    for i in range(200):
        a.call("send", to="bob", text="n%d" % i)
    wait_until(lambda: len(bob.events(types=["message"])) == 200, "200 messages", 60, 0.2)
    seen, acked, kills = [], 0, 0
    while len(set(seen)) < 200:
        c = bob.client()
        c.call("subscribe", consumer="bot", types=["message"])
        for _ in range(dice.randrange(1, 9)):
            if len(set(seen)) == 200:
                break
            e = c.event()
            check(e["seq"] > acked, "an acknowledged event came again")
            seen.append(e["text"])
            if dice.random() < 0.7:
                acked = c.call("ack", consumer="bot", seq=e["seq"])["seq"]
        c.close()
        kills += 1
        if kills % 10 == 0:
            bob.stop(signal.SIGKILL)
            bob.start()
    check(sorted(set(seen), key=lambda t: int(t[1:])) == ["n%d" % i for i in range(200)], "each one")


lab.main()
