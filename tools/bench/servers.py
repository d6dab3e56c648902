"""The programs of the bench: what they are built from and how they are started.

To add a server: one line in PROGRAMS, one or more in SERVERS. A floor of another
kind (a bare ring) is a program and a server like any other, named in FLOOR_OF for
the netkit backends that are to be held against it.
"""

import os
import re
import subprocess
from collections import namedtuple

# name, sources, libraries, a header that must be found, what to install for it
Program = namedtuple("Program", "name sources libs header package")
# name, program, arguments, role: floor, netkit, peer or tried; pieces: knows --pieces
Server = namedtuple("Server", "name program args role pieces")

PROGRAMS = [
    Program("load", ["load.c", "load_echo.c", "load_more.c"], [], None, None),
    Program("floor", ["floor.c"], [], None, None),
    Program("floor_ring", ["floor_ring.c"], [], None, None),
    Program("floor_tried", ["floor_ring.c"], [], None, None),
    Program("server_netkit", ["server_netkit.c"], ["-pthread"], None, None),
    Program("server_uv", ["server_uv.c"], ["-luv"], "uv.h", "libuv1-dev"),
    Program("server_ev", ["server_ev.c"], ["-lev"], "ev.h", "libev-dev"),
    Program("server_event", ["server_event.c"], ["-levent_core"], "event2/event.h", "libevent-dev"),
    Program("server_asio", ["server_asio.cpp"], ["-pthread"], "asio.hpp", "libasio-dev"),
    Program("udp", ["udp.c"], ["-pthread"], None, None),
    Program("file", ["file.c"], ["-pthread"], None, None),
    Program("post", ["post.c"], ["-pthread"], None, None),
    Program("create", ["create.c"], ["-pthread"], None, None),
    Program("wake", ["wake.c"], ["-pthread"], None, None),
    Program("timers", ["timers.c"], ["-lev", "-pthread"], "ev.h", "libev-dev"),
]

SERVERS = [
    Server("floor", "floor", [], "floor", False),
    Server("floor-ring", "floor_ring", [], "floor", False),
    # netkit's servers are made from B=, see netkit_servers()
    Server("libev", "server_ev", [], "peer", False),
    Server("libuv", "server_uv", [], "peer", True),
    Server("libuv-plain", "server_uv", ["--plain"], "peer", False),
    Server("libevent", "server_event", [], "peer", False),
    Server("asio", "server_asio", [], "peer", False),
]

# What netkit's ring leaves out: measured for ROW=tried alone.
TRIED = [
    Server("plain", "floor_tried", [], "floor", False),
    Server("fixed", "floor_tried", ["--fixed"], "tried", False),
    Server("bundle", "floor_tried", ["--bundle"], "tried", False),
    Server("incremental", "floor_tried", ["--incremental"], "tried", False),
    Server("large", "floor_tried", ["--large"], "tried", False),
    # and what it does on request, against itself without
    Server("unasked", "server_netkit", ["--backend", "uring"], "netkit", False),
    Server("ring_files", "server_netkit", ["--backend", "uring", "--fixed"], "netkit", False),
    Server("ring_incremental", "server_netkit", ["--backend", "uring", "--incremental"],
           "netkit", False),
]

# netkit's backend -> the server it is compared with
FLOOR_OF = {"uring": "floor-ring"}


def netkit_servers(backends):
    """One server for each backend named by B=; the first is the one with targets."""
    servers = []
    for backend in backends:
        name = "netkit" if backend == "epoll" else "netkit-" + backend
        servers.append(Server(name, "server_netkit", ["--backend", backend], "netkit", True))
    return servers


def backend_of(server):
    return server.args[1] if server.role == "netkit" else "epoll"


def floor_of(server):
    return FLOOR_OF.get(backend_of(server), "floor")


class Builder:
    """Builds programs into build/bench; what cannot be built is kept with why."""

    def __init__(self, root):
        self.root = root
        self.here = os.path.join(root, "tools", "bench")
        self.out = os.path.join(root, "build", "bench")
        self.missing = {}
        self.cc = (os.environ.get("CC") or "cc").split()
        self.cxx = (os.environ.get("CXX") or "c++").split()
        header = os.path.join(root, "netkit.h")
        self.include = root if os.path.exists(header) else os.path.join(root, "src")
        os.makedirs(self.out, exist_ok=True)

    def path(self, name):
        return os.path.join(self.out, name)

    def compiler(self, sources):
        if sources[0].endswith(".cpp"):
            return self.cxx + ["-std=c++14", "-DASIO_STANDALONE"]
        return self.cc + ["-std=c99", "-D_GNU_SOURCE"]

    def has_header(self, compiler, header):
        language = "c++" if "-DASIO_STANDALONE" in compiler else "c"
        return subprocess.run(compiler + ["-x", language, "-E", "-", "-o", os.devnull],
                              input="#include <%s>\n" % header, text=True,
                              stderr=subprocess.DEVNULL, timeout=60).returncode == 0

    def defines(self, program):
        """The bare ring has buffers of the number and size that netkit's ring has."""
        if program.sources != ["floor_ring.c"]:
            return []
        with open(os.path.join(self.include, "netkit.h")) as f:
            text = f.read()
        found = [(name, re.search(r"\bNKI_%s = (\d+)" % name, text))
                 for name in ("POOL_COUNT", "POOL_SIZE")]
        return ["-D%s=%s" % (name, match.group(1)) for name, match in found if match] + \
            (["-DTRIED"] if program.name == "floor_tried" else [])

    def build(self, program):
        compiler = self.compiler(program.sources)
        if program.header and not self.has_header(compiler, program.header):
            self.missing[program.name] = "%s not found (%s; make deps)" % (program.header,
                                                                          program.package)
            return False
        sources = [os.path.join(self.here, source) for source in program.sources]
        # Same optimisation for all, whatever CFLAGS says: they are compared.
        command = compiler + ["-O2", "-I", self.include, "-o", self.path(program.name)]
        command += self.defines(program)
        done = subprocess.run(command + sources + program.libs, text=True, timeout=300,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            errors = [line for line in done.stdout.splitlines() if "error" in line]
            self.missing[program.name] = "not built: " + (errors or ["compiler failed"])[0][-90:]
            with open(self.path(program.name + ".log"), "w") as log:
                log.write(done.stdout)
            return False
        return True
