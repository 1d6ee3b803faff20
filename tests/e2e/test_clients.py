"""Other people's clients, unmodified: Debian's python3-pynvim and npm's framed-msgpack-rpc against real daemons."""
import lab, os, shutil, subprocess
from lab import check, test, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
NPM = os.path.abspath(os.path.join(HERE, "../../build/npm"))


def run(argv, **more):
    p = subprocess.run(argv, capture_output=True, text=True, timeout=60, **more)
    check(p.returncode == 0, "%s: %s%s" % (argv[0], p.stdout[-500:], p.stderr[-1500:]))
    return p.stdout


@test
def pynvim(l):
    _, alice, bob = l.pair()
    out = run(["/usr/bin/python3", HERE + "/pynvim_client.py", alice.socket, "bob"])
    check("alice" in out, out)
    wait_until(lambda: bob.events(types=["message"]), "its message arrives")


@test
def framed_msgpack_rpc(l):
    check(shutil.which("node") and os.path.isdir(NPM + "/node_modules/framed-msgpack-rpc"), "node or the npm package is missing (tests/run npm)")
    _, alice, bob = l.pair()
    out = run(["node", HERE + "/framed_client.mjs", alice.socket, "bob"], cwd=NPM)
    check("alice" in out, out)
    wait_until(lambda: bob.events(types=["message"]), "its message arrives")


lab.main()
