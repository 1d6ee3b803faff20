"""Direct messages between real processes: delivery, states, offline recipients, a relay that loses its disk."""
import lab, os, shutil, signal, subprocess, time
from lab import check, test, wait_until


def texts(daemon):
    return [e["text"] for e in daemon.events(types=["message"])]


@test
def both_ways_and_states(l):
    _, alice, bob = l.pair()
    a, b = alice.client(), bob.client()
    a.call("subscribe", after=0)
    b.call("subscribe", after=0)
    sent = a.call("send", to="bob", text="hello")
    check(a.event(type="message_ack", id=sent["id"], state="sent"), "sent")
    got = b.event(type="message", text="hello")
    check(got["from"] == "alice" and got["verified"] is False and got["id"] == sent["id"], "event: %r" % got)
    a.event(type="message_ack", id=sent["id"], state="delivered")
    b.call("read", **{"from": "alice", "ids": [got["id"]]})
    a.event(type="message_ack", id=sent["id"], state="read")
    check(a.call("wait", id=sent["id"], until="read")["state"] == "read", "wait")
    back = b.call("send", to="alice", bytes=b"\x00\xff" * 500)
    got = a.event(type="message", id=back["id"])
    check(got["bytes"] == b"\x00\xff" * 500, "bytes")


@test
def sizes_at_the_borders(l):
    _, alice, bob = l.pair()
    a, b = alice.client(), bob.client()
    b.call("subscribe", after=0)
    for n in (0, 1, 100, 255, 256, 4095, 4096, 65535, 65536):
        sent = a.call("send", to="bob", bytes=b"x" * n)
        check(len(b.event(type="message", id=sent["id"])["bytes"]) == n, "%d bytes" % n)
    e = a.error_of("send", to="bob", bytes=b"x" * 65537)
    check(e.name in ("TOO_LARGE", "INVALID_PARAMS") and "65536" in e.text, str(e))


@test
def recipient_offline_for_1000_messages(l):
    _, alice, bob = l.pair()
    a = alice.client()
    a.call("send", to="bob", text="first")
    wait_until(lambda: texts(bob) == ["first"], "first message")
    bob.stop()
    ids = [a.start("send", to="bob", text="n%d" % i) for i in range(1000)]
    for i in ids:
        a.finish(i)
    bob.start()
    want = ["first"] + ["n%d" % i for i in range(1000)]
    wait_until(lambda: len(bob.events(types=["message"])) >= 1001, "1,000 messages", 90, 0.5)
    check(texts(bob) == want, "in order, each once")
    wait_until(lambda: sum(e["state"] == "delivered" for e in alice.events(types=["message_ack"])) == 1001, "1,001 delivered", 60, 0.5)


@test
def relay_loses_its_disk(l):
    relay, alice, bob = l.pair()
    a = alice.client()
    a.call("send", to="bob", text="before")
    wait_until(lambda: texts(bob) == ["before"], "before")
    bob.stop()
    sent = [a.call("send", to="bob", text="kept %d" % i)["id"] for i in range(20)]
    for i in sent:
        a.call("wait", id=i, until="sent", timeout_ms=20000)
    relay.stop(signal.SIGKILL)
    shutil.rmtree(relay.state)
    relay.start()
    bob.start()
    wait_until(lambda: len(texts(bob)) == 21, "messages that the relay had lost", 90, 0.3)
    check(texts(bob) == ["before"] + ["kept %d" % i for i in range(20)], "in order, each once")
    b = bob.client()
    b.call("send", to="alice", text="and back")
    wait_until(lambda: texts(alice) == ["and back"], "the way back", 60)


@test
def no_relay_then_a_relay(l):
    relay, alice, bob = l.pair()
    alice.client().call("send", to="bob", text="one")
    wait_until(lambda: texts(bob) == ["one"], "one")
    relay.stop()
    a = alice.client()
    sent = a.call("send", to="bob", text="two")
    check(sent["state"] == "queued", "accepted without a relay")
    check(a.error_of("send", to="nobody", text="x").name == "NOT_CONNECTED", "unknown user without a relay")
    check(a.error_of("wait", id=sent["id"], timeout_ms=300).name == "TIMEOUT", "wait")
    relay.start()
    wait_until(lambda: texts(bob) == ["one", "two"], "two", 60)


@test
def unknown_user(l):
    _, alice, _ = l.pair()
    e = alice.client().error_of("send", to="nobody", text="x")
    check(e.name == "UNKNOWN_USER" and e.code == 0, str(e))
    e = alice.client().error_of("send", to="No Body!", text="x")
    check(e.name == "INVALID_NAME" and e.code == 1, str(e))


@test
def name_is_taken(l):
    relay, _, _ = l.pair()
    other = l.daemon("other")
    c = other.client()
    e = c.error_of("account.create", user="bob", relay=relay.url)
    check(e.name == "NAME_TAKEN", str(e))
    check(c.call("status")["state"] == "none", "nothing is left of it")
    c.call("account.create", user="carol", relay=relay.url)
    check(c.call("status")["state"] == "online", "another name works")


@test
def same_id_is_the_same_message(l):
    _, alice, bob = l.pair()
    a = alice.client()
    first = a.call("send", to="bob", text="once", id="job-1")
    again = a.call("send", to="bob", text="once", id="job-1")
    check(first["id"] == again["id"] == "job-1", "ids")
    check(a.error_of("send", to="bob", text="other", id="job-1").name == "ID_CONFLICT", "another text")
    a.call("wait", id="job-1", timeout_ms=20000)
    check(a.call("send", to="bob", text="once", id="job-1")["state"] == "delivered", "after it was delivered")
    alice.stop(signal.SIGKILL)
    alice.start().online()
    check(alice.client().call("send", to="bob", text="once", id="job-1")["state"] == "delivered", "after a restart")
    check(texts(bob) == ["once"], "one event")


@test
def time_to_live_and_not_before(l):
    _, alice, bob = l.pair()
    a = alice.client()
    a.call("subscribe", after=0)
    a.call("send", to="bob", text="hi")
    wait_until(lambda: texts(bob) == ["hi"], "hi")
    bob.stop()
    gone = a.call("send", to="bob", text="short", ttl_ms=1500)["id"]
    a.event(type="message_ack", id=gone, state="expired", seconds=30)
    later = a.call("send", to="bob", text="later", not_before=int(time.time() * 1000) + 3000)["id"]
    bob.start()
    now = a.call("send", to="bob", text="now")["id"]
    a.call("wait", id=now, timeout_ms=30000)
    check(texts(bob) == ["hi", "now"], "not before its time: %r" % texts(bob))
    a.call("wait", id=later, timeout_ms=30000)
    check(texts(bob) == ["hi", "now", "later"], "at its time")


@test
def verification_and_safety_numbers(l):
    _, alice, bob = l.pair()
    a, b = alice.client(), bob.client()
    check(a.error_of("send", to="bob", text="x", require_verified=True).name in ("NOT_VERIFIED",), "before")
    b.call("contact.add", user="alice")
    number = b.call("contact.show", user="alice")["safety_number"]
    check(number == a.call("contact.show", user="bob")["safety_number"] and len(number) == 60, "both see " + number)
    wrong = ("1" if number[0] != "1" else "2") + number[1:]
    check(a.error_of("contact.verify", user="bob", number=wrong).name == "VERIFY_MISMATCH", "wrong number")
    a.call("contact.verify", user="bob", number=" ".join(number[i:i + 5] for i in range(0, 60, 5)))
    sent = a.call("send", to="bob", text="only if verified", require_verified=True)
    a.call("wait", id=sent["id"], timeout_ms=20000)
    check(a.call("contact.show", user="bob")["verified"] is True, "kept")


@test
def blocked_contact_hears_nothing(l):
    _, alice, bob = l.pair()
    a, b = alice.client(), bob.client()
    a.call("send", to="bob", text="hello")
    wait_until(lambda: texts(bob) == ["hello"], "hello")
    b.call("contact.block", user="alice")
    sent = a.call("send", to="bob", text="are you there")
    check(a.error_of("wait", id=sent["id"], timeout_ms=2500).name == "TIMEOUT", "no receipt")
    check(texts(bob) == ["hello"], "no event")
    check(b.error_of("send", to="alice", text="x").name == "BLOCKED", "and none the other way")


@test
def quality_0_is_dropped_when_nobody_is_there(l):
    _, alice, bob = l.pair()
    a = alice.client()
    a.call("subscribe", after=0)
    a.call("wait", id=a.call("send", to="bob", text="hi")["id"], timeout_ms=20000)
    there = a.call("send", to="bob", text="live", qos=0)["id"]
    wait_until(lambda: "live" in texts(bob), "live")
    bob.stop()
    time.sleep(0.5)
    gone = a.call("send", to="bob", text="lost", qos=0)["id"]
    a.event(type="message_ack", id=gone, state="failed")
    bob.start().online()
    time.sleep(0.5)
    check(texts(bob) == ["hi", "live"], "not stored: %r" % texts(bob))
    check(there != gone, "ids")


@test
def account_is_deleted_and_the_name_free_again(l):
    relay, alice, bob = l.pair()
    a = alice.client()
    a.call("wait", id=a.call("send", to="bob", text="hi")["id"], timeout_ms=20000)
    b = bob.client()
    check(b.error_of("account.delete", user="alice").name == "INVALID_PARAMS", "needs its own name")
    b.call("account.delete", user="bob")
    check(b.call("status")["state"] == "none", "gone here")
    time.sleep(0.3)
    b.call("account.create", user="bob", relay=relay.url)
    a.call("subscribe", after=0)
    sent = a.call("send", to="bob", text="for the old one")
    changed = a.event(type="key_changed", user="bob", seconds=40)
    check(changed["old_uid"] != changed["new_uid"], "both uids are named")
    a.event(type="message_ack", id=sent["id"], state="failed", reason="key_changed")
    check(a.error_of("send", to="bob", text="x").name == "KEY_CHANGED", "blocked")
    a.call("contact.trust", user="bob", uid=changed["new_uid"])
    wait_until(lambda: a.call("contact.list") and any(c["uid"] == changed["new_uid"] for c in a.call("contact.list")["contacts"]), "the new one is pinned")
    a.call("wait", id=a.call("send", to="bob", text="for the new one")["id"], timeout_ms=20000)
    check(texts(bob) == ["for the new one"], "never re-addressed: %r" % texts(bob))


@test
def raw_text_frames(l):
    relay, alice, _ = l.pair("--raw", "echo")
    a = alice.client()
    a.call("subscribe", after=0)
    a.call("raw.write", text="ping 1")
    a.event(type="raw", text="ping 1")


def certificate(directory):
    """A certificate authority of our own, and a server certificate for localhost."""
    def openssl(*argv):
        subprocess.run(["openssl", *argv], check=True, capture_output=True, cwd=directory)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=lab CA", "-days", "2")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "relay.key", "-out", "relay.csr", "-subj", "/CN=localhost")
    with open(directory + "/ext", "w") as f:
        f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "relay.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "relay.pem", "-days", "2", "-extfile", "ext")


@test
def over_tls_with_channel_binding(l):
    certificate(l.dir)
    relay = l.relay("--tls-cert", l.dir + "/relay.pem", "--tls-key", l.dir + "/relay.key")
    url = relay.url.replace("ws://127.0.0.1", "wss://localhost")
    trusting = "[relay]\nca_file = %s/ca.pem\nrequire_tls = yes\n" % l.dir
    alice, bob = l.daemon("alice", trusting), l.daemon("bob", trusting)
    for d in (alice, bob):
        d.client().call("account.create", user=d.name, relay=url)
    a = alice.client()
    a.call("wait", id=a.call("send", to="bob", text="over TLS")["id"], timeout_ms=20000)
    check(texts(bob) == ["over TLS"], "arrived")
    check(alice.events(types=["connected"])[0]["tls"] is True, "the event says so")
    doubting = l.daemon("carol")
    e = doubting.client().error_of("account.create", user="carol", relay=url, timeout_ms=4000)
    check("certificate" in e.text or "TLS" in e.text or "verif" in e.text.lower(), "an unknown authority is refused and named: %s" % e)
    plain = l.relay(name="plain")
    demanding = l.daemon("dave", trusting)
    e = demanding.client().error_of("account.create", user="dave", relay=plain.url)
    check("TLS" in e.text, "require_tls: %s" % e)


lab.main()
