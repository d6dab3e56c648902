"""The bench: builds, measures, compares, reports. Started by tools/bench/run."""

import os
import platform
import subprocess
import sys
import time

import process
import report
import rows
import servers
import structure
from process import Failed

# name, title, netkit's load, the bare loop's, target
UDP_ROWS = [
    ("udp-64B", "UDP echo, 64 B", ("plain", 64, 64), ("plain", 64, 64), 0.97),
    ("udp-1200B", "UDP echo, 1200 B", ("plain", 1200, 64), ("plain", 1200, 64), None),
    ("udp-segments", "UDP echo, 1200 B, GSO and GRO at both ends / the plain rate",
     ("segments", 1200, 32), ("plain", 1200, 64), 10),
    ("udp-segments-bare", "the same / a bare loop with GSO and GRO", ("segments", 1200, 32),
     ("segments", 1200, 32), None),
]
FILE_MIB = 1024
FILE_TARGET = 0.95
TIMER_TARGETS = {"insert": 1.35, "restart": 1.06, "cancel": 1.08, "fire": 1.02}


def is_tried(word):
    return word.lower().startswith("tried")


def sense_of(row, result):
    return ">=" if result["metric"] in ("cpu", "both") else row.sense


class Bench:
    def __init__(self, root):
        self.began = time.monotonic()
        self.root = root
        self.words = os.environ.get("ROW", "").replace(",", " ").split()
        self.backends = (os.environ.get("B") or "epoll uring").replace(",", " ").split()
        self.asked = bool(os.environ.get("B"))
        self.limit = float(os.environ.get("LIMIT") or "1140")
        self.long = os.environ.get("LONG", "") not in ("", "0")
        self.results = []
        self.skipped = []
        self.failed = False
        self.known = {}  # netkit server -> its instructions and system calls a message
        self.builder = servers.Builder(root)

    def say(self, text=""):
        print(text, flush=True)

    def wanted(self, name, title):
        return not self.words or any(w.lower() in (name + " " + title).lower() for w in self.words)

    def wanted_tried(self, name):
        """What was tried and left out is measured only when it is asked for."""
        return any(is_tried(w) and w.lower() in name.lower() for w in self.words)

    def skip(self, name, why):
        self.skipped.append("%s: %s" % (name, why))

    def prepare(self):
        everything = [s for s in servers.SERVERS if s.role == "floor"] + \
            servers.netkit_servers(self.backends) + \
            [s for s in servers.SERVERS if s.role != "floor"]
        bases = {servers.floor_of(s) for s in everything if s.role == "netkit"} | {"floor"}
        everything = [s for s in everything if s.role != "floor" or s.name in bases]
        if self.words and all(is_tried(w) for w in self.words):
            everything = []
        for program in servers.PROGRAMS:
            if self.needs(program, everything):
                self.builder.build(program)
        for name in ("load", "floor"):
            if name in self.builder.missing:
                raise Failed("%s %s" % (name, self.builder.missing[name]))
        self.servers = []
        for server in everything:
            why = self.builder.missing.get(server.program) or self.try_start(server)
            if why:
                self.skip(server.name, why)
                # A machine without the ring is no failure, unless it was asked for.
                main = server.role == "netkit" and (self.asked or server.name == "netkit")
                self.failed = self.failed or main
            else:
                self.servers.append(server)
        self.by_name = {server.name: server for server in self.servers}
        self.meter = rows.Meter(self.builder, 15 if self.long else 7, 5 if self.long else 3,
                                2000 if self.long else 700, self.began + self.limit * 0.7)
        self.structure = structure.Structure(self.builder)

    def needs(self, program, everything):
        is_trying = any(is_tried(w) for w in self.words)
        if program.name in ("floor_tried", "wake"):
            return is_trying
        if program.name == "server_netkit" and is_trying:
            return True
        if program.name == "timers":
            return self.wanted("timers", "timers")
        return everything or program.name in ("load", "floor")

    def try_start(self, server):
        try:
            with process.Running(self.builder.path(server.program), server.args) as running:
                running.stop()
        except Failed as failure:
            return str(failure)
        return None

    def add(self, result, server, row, title, target, sense, ring=None):
        """Keep a result. Targets are for netkit on epoll, when it is first, and on the ring."""
        result.update(server=server, row=row, title=title, sense=sense)
        result["target"] = self.target_for(server, target, ring)
        result["verdict"] = report.verdict(result, self.known.get(server, {}))
        self.results.append(result)
        return result

    def target_for(self, server, target, ring):
        return target if server == self.first_netkit() else \
            ring if server == "netkit-uring" else None

    def first_netkit(self):
        names = [s.name for s in self.servers if s.role == "netkit"]
        return names[0] if names and names[0] == "netkit" else None

    # ---- rows of one figure for each server ------------------------------------

    def each(self, name, title, unit, measure, target, chosen=None, sense="<=", ring=None):
        servers_here = [s for s in self.servers
                        if chosen is None or s.role in chosen or s.name in chosen]
        if not self.wanted(name, title) or not servers_here:
            return
        self.say("\n%s" % title)
        for server in servers_here:
            try:
                result = self.add(measure(server), server.name, name, title, target, sense, ring)
                if server.role == "netkit" and name in ("instructions", "syscalls"):
                    self.known.setdefault(server.name, {})[name] = result["value"]
                self.annotate(name, result)
                self.say(report.value_line(result, unit))
            except (Failed, OSError, subprocess.SubprocessError) as failure:
                self.trouble("%s, %s" % (name, server.name), failure)

    def trouble(self, what, failure):
        self.say("%-12s %s" % (what, failure))
        self.skip(what, str(failure))
        known = "not found" in str(failure) or "needs Linux" in str(failure)
        self.failed = self.failed or not known

    def annotate(self, name, result):
        """What stands behind a figure; whether the floor is a floor."""
        bounds = {("floor", "instructions"): (75, 100), ("floor", "syscalls"): (2.00, 2.05),
                  ("floor-ring", "syscalls"): (0, 0.04)}
        bounds = bounds.get((result["server"], name))
        if bounds:
            digits = 3 if result["server"] == "floor-ring" else 2
            sound = bounds[0] <= round(result["value"], digits) <= bounds[1]
            result["note"] = "%s: %g to %g wanted" % (("sound" if sound else "UNSOUND",) + bounds)
            self.failed = self.failed or not sound
        elif name == "syscalls":
            result["note"] = "epoll_ctl %.3f" % result["epoll_ctl"]
            if result["server"] == "netkit" and result["epoll_ctl"] > 0:
                result["verdict"] = "MISS"
        elif "before" in result:
            result["note"] = "before the first connection: %.2f" % result["before"]
        elif "plain" in result:
            result["note"] = "without a trial: %.3f; to destroy it: %.3f" % (
                result["plain"], result["destroy"])
        elif "live" in result:
            result["note"] = "allocator: %.1f live" % result["live"]

    def structures(self):
        s = self.structure
        self.each("instructions", "user instructions a message: 64 B, 50 connections",
                  "instructions", s.instructions, 260)
        self.each("instructions-idle", "the same with an idle timeout of 60 s", "instructions",
                  lambda server: s.instructions(server, ["--idle-timeout", "60000"]), 260,
                  ["netkit"])
        self.each("syscalls", "system calls a message: 64 B, 50 connections", "calls",
                  s.syscalls, 2.05, ring=0.05)
        self.each("idle", "system calls of an idle server with 1000 connections", "calls/s",
                  s.idle, 2, ["floor", "netkit"], ring=2)
        self.each("memory", "memory of an idle connection after one echo", "bytes of RSS",
                  s.memory, 128, ring=192)
        self.each("buffers", "allocated by the first connections: receive buffers, slots",
                  "MiB", s.first_use, None, ["netkit"], ring=4)
        self.each("allocations", "allocations in a steady echo of a million messages",
                  "allocations", s.allocations, 0, ["netkit"], ring=0)
        self.each("create", "time to create a loop, with what its ring tries out", "ms", s.create,
                  None, ["netkit"], ring=0.5)
        self.each("compile", "compile time of one file with the implementation at -O2", "seconds",
                  lambda server: s.compile_time(), 1.5, [self.first_compiled()])
        for name, defines in (("compile-static", ["NETKIT_STATIC"]),
                              ("compile-small", ["NETKIT_STATIC", "NETKIT_NO_URING"])):
            self.each(name, "compile time of echo_server.c, a program of one file, with %s" %
                      " ".join(defines), "seconds",
                      lambda server, defines=defines: s.compile_time_of("echo_server.c", defines),
                      None, [self.first_compiled()])

    def first_compiled(self):
        """Any netkit: the header is the same."""
        return next((s.name for s in self.servers if s.role == "netkit"), None)

    def timers(self):
        if not self.wanted("timers", "one million timers, time to libev's"):
            return
        why = self.builder.missing.get("timers")
        if why:
            self.skip("timers", why)
            return
        self.say("\none million timers: netkit / libev")
        try:
            found = self.structure.timers(15 if self.long else 7)
        except (Failed, subprocess.SubprocessError) as failure:
            self.trouble("timers", failure)
            return
        for phase in found["phases"]:
            title = "timers: " + phase["name"]
            goal = TIMER_TARGETS.get(phase["name"])
            result = self.add(phase, "netkit", "timers-" + phase["name"], title, goal, "<=")
            self.say(("%-12s %6.3f  %5.3f - %5.3f  %7.1f ns, libev %7.1f ns   %s %s" % (
                phase["name"], result["ratio"], result["q1"], result["q3"], result["netkit_ns"],
                result["libev_ns"], "target <= %.2f " % goal if goal else "",
                result["verdict"])).rstrip())
        self.say("%-12s %.0f bytes a timer, libev %d and its heap" % (
            "memory", found["netkit_bytes"], found["libev_bytes"]))

    def datagrams(self):
        """netkit's backends against a bare recvmmsg/sendmmsg epoll loop."""
        found = [row for row in UDP_ROWS if self.wanted(row[0], row[1])]
        if not found or self.builder.missing.get("udp"):
            return
        self.say("\ndatagrams: netkit / bare recvmmsg, sendmmsg and epoll\n" + report.HEAD)
        for name, title, how, base, target in found:
            self.say(title)
            for backend in self.backends:
                server = servers.netkit_servers([backend])[0].name
                try:
                    result = self.structure.udp_pairs(backend, how, base, self.meter.pairs,
                                                      self.meter.time_ms)
                except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
                    self.trouble("%s, %s" % (name, server), failure)
                    continue
                self.add(result, server, name, title, target, ">=")
                self.say(report.rate_line(result))

    def files(self):
        """A gigabyte out of a conn's queue against a bare sendfile loop."""
        name, title = "sendfile-1G", "sendfile of 1 GiB to one connection, cubic"
        if not self.wanted(name, title) or self.builder.missing.get("file"):
            return
        self.say("\nfiles: netkit / a bare sendfile loop; MiB a second\n" + report.HEAD)
        self.say(title)
        path = self.builder.path("file.large")
        try:
            with open(path, "wb") as f:
                f.truncate(FILE_MIB << 20)  # a hole: no disk is what this is about
            self.structure.one("file", ["bare", path, FILE_MIB])  # now it is in memory
            for backend in self.backends:
                self.file(backend, path, name, title)
        except (Failed, OSError, subprocess.SubprocessError) as failure:
            self.trouble(name, failure)
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def file(self, backend, path, name, title):
        server = servers.netkit_servers([backend])[0].name
        try:
            result = self.structure.file_pairs(backend, path, FILE_MIB, self.meter.pairs)
        except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
            self.trouble("%s, %s" % (name, server), failure)
            return
        self.add(result, server, name, title, FILE_TARGET, ">=")
        self.say("%s  memory +%d KiB" % (report.rate_line(result), result["grown_kib"]))

    def posts(self):
        """Two loops that post to each other in turn, on the ring and on epoll."""
        name, title = "ring-post", "ring to epoll: a post to a loop that sleeps, both threads"
        if "uring" not in self.backends or not self.wanted(name, title) or \
                self.builder.missing.get("post"):
            return
        self.say("\nposts: CPU time, less is better\n%s\n%s" % (report.HEAD, title))
        try:
            result = self.structure.post_pairs("uring", self.meter.pairs, self.meter.time_ms)
        except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
            self.trouble(name, failure)
            return
        self.add(result, "netkit-uring", name, title, None, "<=", 1)
        self.say(report.rate_line(result))

    # ---- rows of pairs ----------------------------------------------------------

    def contestants(self, row):
        """Who is measured, against whom, with which extra arguments."""
        if row.base == "joined":
            return [(s, s, ["--pieces", "64"]) for s in self.servers if s.pieces]
        if row.base == "epoll":
            both = [self.by_name.get("netkit-uring"), self.by_name.get("netkit")]
            return [(both[0], both[1], [])] if all(both) else []
        pairs = []
        for server in self.servers:
            base = self.by_name.get(servers.floor_of(server))
            if server.role != "floor" and base is not None:
                pairs.append((server, base, []))
        return pairs

    def time_is_up(self, rows_left):
        """Peers are left out where netkit's own rows would come too late."""
        pairs = sum(self.meter.count_for(row) for row in rows_left
                    for server, _, _ in self.contestants(row) if server.role == "netkit")
        return time.monotonic() - self.began + self.meter.seconds_for(pairs) > self.limit

    def is_straddled(self, row, server, result):
        """Whether the quartiles do not agree on the target."""
        target = self.target_for(server.name, row.target, row.ring_target)
        return target is not None and report.agreed(
            dict(result, target=target, sense=sense_of(row, result))) is None

    def judge(self, row, server, rows_left):
        """When a row has been measured enough: it is decided, or time is short."""
        return lambda result: not self.is_straddled(row, server, result) or \
            self.time_is_up(rows_left)

    def pairs(self):
        chosen = [row for row in rows.ROWS if self.wanted(row.name, row.title)]
        late = []
        for at, row in enumerate(chosen):
            contestants = self.contestants(row)
            if not contestants:
                continue
            self.say("\n%s%s" % (row.title, " (base: one joined send)" if row.base == "joined"
                                 else ""))
            for server, base, more in contestants:
                if server.role == "peer" and self.time_is_up(chosen[at + 1:]):
                    late.append("%s/%s" % (row.name, server.name))
                    continue
                try:
                    result = self.meter.compare(row, server, base, more,
                                                self.judge(row, server, chosen[at:]))
                    if row.by_calls and self.is_straddled(row, server, result):
                        result["calls_ratio"] = self.structure.calls_ratio(server, base, row)
                except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
                    self.trouble("%s, %s" % (row.name, server.name), failure)
                    continue
                result["decide"] = "structure" if server.name == "netkit" else "median"
                result["base"] = base.name
                self.add(result, server.name, row.name, row.title, row.target,
                         sense_of(row, result), row.ring_target)
                self.say(report.rate_line(result))
                if row.cost_target is not None:
                    self.cost(row, result)
        if late:
            self.skip("%d rows of peers" % len(late), "LIMIT=%d s was near (%s)" % (
                self.limit, ", ".join(late)))

    def cost(self, row, rated):
        """The CPU time of the same pairs, with a target of its own."""
        result = dict(rated, metric="cost", ratio=rated["cpu_ratio"], q1=rated["cpu_q1"],
                      q3=rated["cpu_q3"])
        self.add(result, rated["server"], row.name + "-cost", row.title + ": CPU time a message",
                 None, "<=", row.cost_target)
        self.say(report.rate_line(result))

    # ---- tried and left out -----------------------------------------------------

    def tried(self):
        """What netkit's ring does not use of io_uring: the bare ring with it and without."""
        found = [row for row in rows.TRIED_ROWS if self.wanted_tried(row.name)]
        wakes = [row for row in rows.WAKE_ROWS if self.wanted_tried(row[0])]
        if found:
            self.say("\ntried and left out: the bare ring with / without, %d pairs, and netkit's\nby: rate, "
                     "bytes; us/msg: CPU time of a message (one way: of a byte), less is better\n\n"
                     "%s" % (self.meter.pairs, report.HEAD))
            able = self.able([s for s in servers.TRIED
                              if any(s.name in row.tried for row in found)])
            for row in found:
                self.say("\n" + row.title)
                for server in able:
                    if server.name in row.tried:
                        self.try_row(row, server)
        if wakes:
            self.say("\nwakes: register (netkit's where the kernel can), and what was left out, / by "
                     "an eventfd and\na poll that goes on (netkit's else)\nus/msg: CPU time of a "
                     "wake, less is better; rate: wakes\n\n%s" % report.HEAD)
        for name, title, posts in wakes:
            self.say("\n" + title)
            for means in rows.WAKE_MEANS:
                self.wake(name, title, means, posts)

    def able(self, candidates):
        """Those that the kernel knows; the others are skipped."""
        able = []
        for server in candidates:
            why = self.builder.missing.get(server.program) or self.try_start(server)
            if why:
                self.trouble("tried, " + server.name, why)
            else:
                able.append(server)
        return able

    def try_row(self, row, server):
        base = next(s for s in servers.SERVERS + servers.TRIED if s.name == row.base)
        try:
            result = self.meter.compare(row, server, base)
        except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
            self.trouble("%s, %s" % (row.name, server.name), failure)
            return
        result["base"] = base.name
        self.add(result, server.name, row.name, row.title, None, row.sense)
        self.say(report.rate_line(result))
        self.cost(row, result)

    def wake(self, name, title, means, posts):
        try:
            result = self.structure.wake_pairs(means, posts, self.meter.pairs, self.meter.time_ms)
        except (Failed, subprocess.SubprocessError, ZeroDivisionError) as failure:
            self.trouble("%s, %s" % (name, means), failure)
            return
        self.add(result, means, name, title, None, "<=")
        self.say(report.rate_line(result))

    def machine(self):
        with open("/proc/cpuinfo") as f:
            model = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        cc = subprocess.run(self.builder.cc + ["--version"], stdout=subprocess.PIPE, text=True)
        return {"cpu": (model or ["unknown"])[0], "cpus": len(os.sched_getaffinity(0)),
                "kernel": platform.release(), "cc": cc.stdout.splitlines()[0],
                "backends": self.backends}

    def run(self):
        self.prepare()
        machine = self.machine()
        self.say("netkit bench: %(cpus)d CPUs %(cpu)s, Linux %(kernel)s" % machine)
        self.say("%s; netkit on %s" % (machine["cc"], " ".join(self.backends)))
        for text in self.skipped:
            self.say("skipped: " + text)
        self.structures()
        self.timers()
        self.datagrams()
        self.files()
        self.posts()
        if any(self.wanted(row.name, row.title) for row in rows.ROWS):
            self.say("\nratios to the floor in adjacent pairs (%d, peers %d); netkit-uring's is "
                     "the bare ring\nby: rate, bytes, p50, or cpu: time a message takes, where "
                     "the generator was the limit\nor most pairs were disturbed; both: that of server and "
                     "generator, where now one was the\nlimit and now the other; us/msg: the "
                     "server's, ours to theirs\n\n%s" %
                     (self.meter.pairs, self.meter.peer_pairs, report.HEAD))
        self.pairs()
        self.tried()
        out = os.path.join(self.root, "build")
        report.write_json(os.path.join(out, "bench.json"), machine, self.results, self.skipped)
        report.write_svg(os.path.join(out, "bench.svg"), self.results,
                         "netkit and its peers: ratio to a bare loop, longer is better")
        self.say(report.closing(self.results, self.skipped, time.monotonic() - self.began))
        self.say("written: build/bench.json build/bench.svg")
        if not self.results:
            self.say("no row is called %s" % " ".join(self.words))
        return 1 if self.failed or not self.results else 0


def main():
    process.guard()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    try:
        return Bench(root).run()
    except Failed as failure:
        print("bench: %s" % failure, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
