"""What does not depend on the weather: instructions, system calls, memory,
allocations, compile time. And the timers, which bring their own pairs."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import process
from process import Failed, Running
from rows import median, quantile

FEW, MANY = 5000, 25000
# Of a ring, which makes hundredths of a call a message: fewer would show how the start went.
RING_FEW, RING_MANY = 20000, 120000
# How many messages a ring's call serves depends on how much is ready. This makes it busy: each
# call is held back for so many microseconds, in which all connections get something ready.
RING_DELAY_US = 100


def is_ring(server):
    return server.name in ("floor-ring", "netkit-uring")


def echo_count(count):
    return ["--mode", "echo", "--conns", 50, "--inflight", 1, "--size", 64, "--count", count]


class Structure:
    def __init__(self, builder):
        self.builder = builder

    def serve(self, server, load_args, wrapper=(), more=()):
        """A server for one load; what it said at its end."""
        slow = 120 if wrapper else 60
        with Running(self.builder.path(server.program), list(server.args) + list(more), wrapper,
                     patience=30) as running:
            process.load(self.builder.path("load"), running.port, running.pid, load_args,
                         timeout=slow)
            return running.stop(60)

    # ---- user instructions a message: callgrind, slope of two fixed counts

    def callgrind(self, server, count, more):
        out = self.builder.path("callgrind.out")
        wrapper = ["valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=" + out]
        if is_ring(server):
            out = self.callgrind_ring(server, count, wrapper, more, out)
        else:
            self.serve(server, echo_count(count), wrapper, more)
        with open(out) as f:
            found = re.search(r"^(?:totals|summary): (\d+)", f.read(), re.M)
        os.unlink(out)
        if found is None:
            raise Failed("callgrind gave no total")
        return int(found.group(1))

    def callgrind_ring(self, server, count, wrapper, more, out):
        """Valgrind holds back a signal while its program waits in io_uring_enter, but it can be
        asked for what it has counted, and the program waits when all is answered."""
        with Running(self.builder.path(server.program), list(server.args) + list(more), wrapper,
                     patience=30) as running:
            process.load(self.builder.path("load"), running.port, running.pid, echo_count(count),
                         timeout=120)
            done = subprocess.run(["vgdb", "--pid=%d" % running.pid, "dump"], timeout=30,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            process.end(running.process, signal.SIGKILL)
        if done.returncode != 0 or not os.path.exists(out + ".1"):
            raise Failed("vgdb got no dump")
        return out + ".1"

    def instructions(self, server, more=()):
        if shutil.which("valgrind") is None:
            raise Failed("valgrind not found (make deps)")
        few = self.callgrind(server, FEW, more)
        many = self.callgrind(server, MANY, more)
        return {"value": (many - few) / (MANY - FEW)}

    # ---- system calls a message: strace, slope of two fixed counts

    def strace(self, server, count):
        out = self.builder.path("strace.out")
        wrapper = ["strace", "-f", "-c", "-o", out]
        if is_ring(server):
            wrapper += ["-e", "inject=io_uring_enter:delay_enter=%d" % RING_DELAY_US]
        self.serve(server, echo_count(count), wrapper)
        return read_strace(out)

    def syscalls(self, server):
        if shutil.which("strace") is None:
            raise Failed("strace not found (make deps)")
        counts = (RING_FEW, RING_MANY) if is_ring(server) else (FEW, MANY)
        few, many = (self.strace(server, count) for count in counts)
        each = {name: (many.get(name, 0) - few.get(name, 0)) / (counts[1] - counts[0])
                for name in set(few) | set(many)}
        return {"value": sum(each.values()), "epoll_ctl": each.get("epoll_ctl", 0.0),
                "each": {name: round(n, 4) for name, n in sorted(each.items()) if abs(n) > 1e-4}}

    def calls_ratio(self, server, base, row):
        """System calls a byte under a row's load, to the base's."""
        if shutil.which("strace") is None:
            raise Failed("strace not found (make deps)")
        return self.calls_of(server, row) / self.calls_of(base, row)

    def calls_of(self, server, row):
        out = self.builder.path("strace.out")
        with Running(self.builder.path(server.program), list(server.args) + list(row.server),
                     ["strace", "-f", "-c", "-o", out], patience=30) as running:
            done = process.load(self.builder.path("load"), running.port, running.pid,
                                row.load + ["--time", 2000])
            running.stop(60)
        return sum(read_strace(out).values()) / done["bytes"]

    # ---- an idle server: system calls a second with 1000 connections

    def idle(self, server, seconds=10, conns=1000):
        if shutil.which("strace") is None:
            raise Failed("strace not found (make deps)")
        out = self.builder.path("strace.out")
        with Running(self.builder.path(server.program), server.args) as running:
            load = self.idle_load(running, conns)
            tracer = process.start(["strace", "-f", "-c", "-o", out, "-p", str(running.pid)],
                                   stderr=subprocess.PIPE)
            time.sleep(seconds)
            if tracer.poll() is not None:
                raise Failed("strace -p: " + tracer.stderr.read().decode().strip()[-80:])
            process.end(tracer, signal.SIGINT)
            tracer.stderr.close()
            process.end(load)
            running.stop()
        calls = read_strace(out)
        return {"value": sum(calls.values()) / seconds, "calls": calls}

    def idle_load(self, running, conns):
        load = process.start([self.builder.path("load"), "--mode", "idle", "--port",
                              str(running.port), "--conns", str(conns), "--life", "120"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.read_line(load, "ready %d" % conns, 30)
        return load

    # ---- memory of an idle connection: slope between two numbers of them

    def memory(self, server, few=1000, many=10000):
        many = min(many, descriptor_limit() - 100)
        if many < 2 * few:
            raise Failed("the limit on descriptors allows only %d" % (many + 100))
        with Running(self.builder.path(server.program), server.args) as running:
            load = self.idle_load(running, few)
            first, first_live = self.held(server, running)
            load.stdin.write(b"%d\n" % many)
            load.stdin.flush()
            process.read_line(load, "ready %d" % many, 60)
            last, last_live = self.held(server, running)
            process.end(load)
            running.stop(30)
        result = {"value": (last - first) / (many - few), "from": few, "to": many}
        if first_live is not None:
            result["live"] = (last_live - first_live) / (many - few)
        return result

    # ---- what the first connections make a loop allocate, in MiB

    def first_use(self, server, conns=50):
        with Running(self.builder.path(server.program), server.args) as running:
            _, before = self.held(server, running)
            load = self.idle_load(running, conns)
            _, after = self.held(server, running)
            process.end(load)
            running.stop(30)
        return {"value": (after - before) / 2.0 ** 20, "before": before / 2.0 ** 20}

    def held(self, server, running):
        """Resident bytes, and the live bytes that netkit's allocator hook counts."""
        live = None
        if server.role == "netkit":
            live = number(running.ask(signal.SIGUSR1, "memory "), "live")
        with open("/proc/%d/smaps_rollup" % running.pid) as f:
            rss = re.search(r"^Rss:\s+(\d+) kB", f.read(), re.M)
        return int(rss.group(1)) * 1024, live

    # ---- allocations of a million messages; what the connections' beginning allocates varies

    def allocations(self, server, more=1000000):
        with Running(self.builder.path(server.program), server.args) as running, \
                ThreadPoolExecutor(1) as pool:
            load = pool.submit(process.load, self.builder.path("load"), running.port, running.pid,
                               echo_count(more * 3 // 2), timeout=120)
            time.sleep(1)
            before = number(running.ask(signal.SIGUSR1, "memory "), "allocs")
            load.result()
            after = number(running.ask(signal.SIGUSR1, "memory "), "allocs")
            running.stop(60)
        return {"value": after - before, "messages": more}

    # ---- a loop before its first turn

    def create(self, server):
        return self.one("create", [server.args[server.args.index("--backend") + 1]])

    # ---- compile time of one file at -O2: CPU time, which others do not lengthen

    def compile_time(self, rounds=5):
        source = self.builder.path("one.c")
        with open(source, "w") as f:
            f.write("#define NETKIT_IMPLEMENTATION\n#include \"netkit.h\"\n")
        return self.compiled(source, [], rounds)

    def compile_time_of(self, example, defines, rounds=5):
        """Of a program of one file."""
        source = os.path.join(self.builder.root, "examples", example)
        return self.compiled(source, ["-D" + name for name in defines], rounds)

    def compiled(self, source, options, rounds):
        command = self.builder.cc + ["-O2", "-I", self.builder.include] + options + \
            ["-c", source, "-o", self.builder.path("one.o")]
        times = []
        for _ in range(rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, stderr=subprocess.PIPE, timeout=60)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            if done.returncode != 0:
                raise Failed("netkit.h does not compile")
        return {"value": median(times), "seconds": times}

    # ---- datagrams

    def one(self, program, args):
        """One run of a program that brings its own server and load."""
        child = process.start([self.builder.path(program)] + [str(arg) for arg in args],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=70)
        finally:
            process.end(child)
        if child.returncode != 0:
            raise Failed(err.decode().strip() or "%s: status %d" % (program, child.returncode))
        return json.loads(out)

    def in_pairs(self, run, pairs, metric=None):
        """Ratios of netkit to the bare loop in adjacent pairs of run(True) and run(False): rates,
        or where the server had time to spare, the CPU time of a piece, the bare loop's first;
        by cost netkit's first."""
        ours, theirs = [], []
        for i in range(pairs):
            for mine in ((False, True) if i % 2 == 0 else (True, False)):
                (ours if mine else theirs).append(run(mine))
        if metric is None:
            metric = "rate" if median([t["server_load"] for t in theirs]) > 0.93 else "cpu"
        if metric == "rate":
            ratios = [o["rate"] / t["rate"] for o, t in zip(ours, theirs)]
        else:
            ratios = [t["server_us"] / o["server_us"] for o, t in zip(ours, theirs)]
        if metric == "cost":
            ratios = [1 / ratio for ratio in ratios]
        return {"metric": metric, "ratio": median(ratios), "q1": quantile(ratios, 0.25),
                "q3": quantile(ratios, 0.75), "ratios": ratios, "pairs": pairs, "disturbed": 0,
                "rate": median([o["rate"] for o in ours]),
                "base_rate": median([t["rate"] for t in theirs]),
                "server_us": median([o["server_us"] for o in ours]),
                "base_server_us": median([t["server_us"] for t in theirs]),
                "runs": ours}

    def udp_pairs(self, server, how, base_how, pairs, time_ms):
        """how: plain or segments, size, how many under way."""
        def run(mine):
            return self.one("udp", [server if mine else "bare"] +
                            list(how if mine else base_how) + [time_ms])
        result = self.in_pairs(run, pairs)
        result["lost"] = sum(o["lost"] for o in result.pop("runs"))
        return result

    def file_pairs(self, server, path, mib, pairs):
        """One file to one connection; the program fails when the server's memory grows."""
        result = self.in_pairs(lambda mine: self.one("file", [server if mine else "bare", path,
                                                              mib]), pairs)
        result["grown_kib"] = max(o["grown_kib"] for o in result["runs"])
        result["bytes_per_s"] = median([o["bytes_per_s"] for o in result.pop("runs")])
        return result

    # ---- posts and wakes

    def post_pairs(self, backend, pairs, time_ms):
        """CPU time of a post to a loop that sleeps, to that on epoll."""
        result = self.in_pairs(lambda mine: self.one("post", [backend if mine else "epoll",
                                                              time_ms]), pairs, "cost")
        del result["runs"]
        return result

    def wake_pairs(self, means, posts, pairs, time_ms):
        """CPU time of a post by these means to that of one by an eventfd."""
        result = self.in_pairs(lambda mine: self.one("wake", [means if mine else "eventfd", posts,
                                                              time_ms]), pairs, "cost")
        del result["runs"]
        return result

    # ---- timers

    def timers(self, rounds):
        child = process.start([self.builder.path("timers"), str(rounds)], core=0,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=240)
        finally:
            process.end(child)
        if child.returncode != 0:
            raise Failed("timers: " + (err.decode().strip() or "status %d" % child.returncode))
        return json.loads(out)


def read_strace(path):
    calls = {}
    with open(path) as f:
        for line in f:
            found = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if found and found.group(2) != "total":
                calls[found.group(2)] = int(found.group(1))
    os.unlink(path)
    return calls


def number(text, key):
    found = re.search(r"\b%s=(\d+)" % key, text)
    if found is None:
        raise Failed("the server did not say %s=" % key)
    return int(found.group(1))


def descriptor_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard
