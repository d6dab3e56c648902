"""The rows that compare rates, and how they are measured: adjacent pairs."""

import re
import time

import process

# A run is disturbed when others used more of a CPU than this.
OTHERS_MAX = 0.10


class Row:
    def __init__(self, name, title, load, server=(), target=None, metric="rate", base="floor",
                 sense=">=", ring_target=None, pairs=None, cost_target=None, tried=(), by_calls=False):
        self.name = name
        self.title = title
        self.load = load      # arguments of the generator
        self.server = server  # arguments of both servers
        self.target = target
        self.metric = metric  # rate, p50_us, bytes_per_s, or cost: CPU time a message
        self.base = base      # floor; joined: the same without --pieces; epoll: ring alone;
                              # of tried rows the name of a server
        self.sense = sense
        self.ring_target = ring_target  # of netkit-uring
        self.pairs = pairs              # at least so many, None = the usual
        self.cost_target = cost_target  # of the CPU time a message takes, by the same pairs
        self.by_calls = by_calls  # what straddles is decided by system calls a byte, to the base's
        self.tried = tried    # servers.TRIED: rate and cost of these, whoever is the limit


def echo(name, title, conns, inflight, size, target, **more):
    load = ["--mode", "echo", "--conns", conns, "--inflight", inflight, "--size", size]
    if "server" in more:
        load += more["server"]
    ring = 1.03 if more.get("sense") == "<=" else 0.97
    return Row("echo-" + name, title, load, target=target, ring_target=ring, **more)


def to_epoll(name, title, load, target, **more):
    """netkit on the ring against netkit on epoll."""
    return Row("ring-" + name, "ring to epoll: " + title, load, base="epoll", ring_target=target,
               **more)


def tried(name, title, load, servers, base="plain", **more):
    return Row("tried-" + name, title, load, base=base, tried=servers, **more)


def wished(name, title, load):
    """What netkit's ring does on request, against itself without."""
    return tried("netkit-" + name, "netkit: " + title, load, ("ring_files", "ring_incremental"),
                 base="unasked")


K = 1024
CUBIC = ["--cc", "cubic"]
BULK = ["--mode", "bulk", "--conns", 50, "--size", 64 * K] + CUBIC
CHURN = ["--mode", "churn", "--conns", 50, "--size", 64, "--time", 500]
ECHO = ["--mode", "echo", "--conns", 50]
PIPELINE = ["--mode", "echo", "--conns", 50, "--inflight", 16, "--size", 64, "--batch"]

ROWS = [
    echo("64B-1c", "64 B, 1 connection: round trip", 1, 1, 64, 1.05, metric="p50_us", sense="<="),
    echo("64B-50c", "64 B, 50 connections", 50, 1, 64, 0.97),
    echo("64B-500c", "64 B, 500 connections", 500, 1, 64, 0.97),
    echo("64B-5000c", "64 B, 5000 connections", 5000, 1, 64, 0.93),
    echo("64B-50c-16p", "64 B, 50 connections, 16 in flight", 50, 16, 64, 0.97),
    echo("4K-50c", "4 KiB, 50 connections", 50, 1, 4 * K, 0.97),
    echo("4K-50c-16p", "4 KiB, 50 connections, 16 in flight", 50, 16, 4 * K, 0.97),
    echo("64K-50c", "64 KiB, 50 connections", 50, 1, 64 * K, 0.97, server=CUBIC),
    echo("64K-50c-16p", "64 KiB, 50 connections, 16 in flight", 50, 16, 64 * K, 0.97,
         server=CUBIC),
    Row("churn", "connect, one echo, close; 50 at a time", CHURN),
    Row("bulk", "one way to the server, 50 connections, cubic", BULK,
        server=["--sink"] + CUBIC, metric="bytes_per_s"),
    Row("pieces", "16 requests answered by 16 sends / by one", PIPELINE, target=0.9,
        base="joined"),
    to_epoll("64B-50c", "64 B, 50 connections", ECHO + ["--inflight", 1, "--size", 64], 0.98,
             pairs=11, cost_target=1.02),
    to_epoll("64B-50c-16p", "64 B, 50 connections, 16 in flight",
             ECHO + ["--inflight", 16, "--size", 64], None),
    to_epoll("4K-50c", "4 KiB, 50 connections", ECHO + ["--inflight", 1, "--size", 4 * K], 0.97),
    to_epoll("4K-50c-16p", "4 KiB, 50 connections, 16 in flight",
             ECHO + ["--inflight", 16, "--size", 4 * K], 0.97),
    to_epoll("64K-50c", "64 KiB, 50 connections",
             ECHO + ["--inflight", 1, "--size", 64 * K] + CUBIC, 0.97, server=CUBIC),
    to_epoll("bulk", "one way, 50 connections, cubic", BULK, 0.97, server=["--sink"] + CUBIC,
             metric="bytes_per_s", by_calls=True),
    to_epoll("churn", "connect, one echo, close", CHURN, 0.95, metric="cost", sense="<="),
]

LOOK = ["--sink", "--look"] + CUBIC  # a receiver that discards unseen would hide the caches
TRIED_ROWS = [
    tried("64B-50c", "64 B, 50 connections", ECHO + ["--inflight", 1, "--size", 64],
          ("fixed", "bundle", "incremental")),
    tried("4K-50c-16p", "4 KiB, 50 connections, 16 in flight",
          ECHO + ["--inflight", 16, "--size", 4 * K], ("fixed", "bundle", "incremental")),
    tried("bulk", "one way, every byte looked at, 50 connections, cubic", BULK,
          ("bundle", "incremental", "large"), server=LOOK, metric="bytes_per_s"),
    tried("64K-bulk", "one way, looked at: / recv into one buffer of 64 KiB (epoll)", BULK,
          ("bundle", "incremental", "large"), server=LOOK, metric="bytes_per_s", base="floor"),
    tried("churn", "connect, one echo, close", CHURN, ("fixed",)),
    wished("64B-50c", "64 B, 50 connections", ECHO + ["--inflight", 1, "--size", 64]),
    wished("64B-1000c", "64 B, 1000 connections",
           ["--mode", "echo", "--conns", 1000, "--inflight", 1, "--size", 64]),
    wished("4K-50c-16p", "4 KiB, 50 connections, 16 in flight",
           ECHO + ["--inflight", 16, "--size", 4 * K]),
    wished("churn", "connect, one echo, close", CHURN),
]

# name, title, posts a turn (wake.c)
WAKE_MEANS = ("read", "message", "register")
WAKE_ROWS = [
    ("tried-wake-calls", "a wake, one thread doing both sides: the calls alone", 0),
    ("tried-wake", "a wake of a thread that sleeps: CPU time of both", 1),
    ("tried-wake-busy", "16 wakes in a row: CPU time of both threads", 16),
]


def quantile(values, part):
    values = sorted(values)
    at = part * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def median(values):
    return quantile(values, 0.5)


class Meter:
    def __init__(self, builder, pairs, peer_pairs, time_ms, retry_until):
        self.builder = builder
        self.pairs = pairs
        self.retry_until = retry_until  # on the monotonic clock
        self.spent = 0.0
        self.runs = 0
        self.peer_pairs = peer_pairs
        self.time_ms = time_ms

    def run_once(self, server, row, more):
        args = list(server.args) + list(row.server) + list(more)
        timed = [] if "--time" in row.load else ["--time", self.time_ms]
        with process.Running(self.builder.path(server.program), args) as running:
            result = process.load(self.builder.path("load"), running.port, running.pid,
                                  row.load + timed)
            check_counts(server, row, running.stop())
        work = result["bytes"] if row.metric == "bytes_per_s" else result["messages"]
        result["cost"] = result["server_cpu_s"] / work
        result["cost_of_both"] = result["cost"] + result["own_load"] * result["seconds"] / work
        result["others"] = max(0.0, result["other_load"]) + result["steal"]
        return result

    def run(self, server, row, more):
        """One run, repeated once when others used the machine meanwhile."""
        start = time.monotonic()
        result = self.run_once(server, row, more)
        if result["others"] > OTHERS_MAX and start < self.retry_until:
            again = self.run_once(server, row, more)
            if again["others"] < result["others"]:
                result = again
        self.spent += time.monotonic() - start
        self.runs += 1
        return result

    def count_for(self, row):
        return max(self.pairs, row.pairs or 0)

    def seconds_for(self, pairs):
        """What so many pairs will take, by what runs took until now."""
        each = self.spent / self.runs if self.runs else self.time_ms / 1000 + 0.5
        return pairs * 2 * each

    def compare(self, row, server, base, more=(), is_decided=None):
        """Adjacent pairs, A B then B A: both see the same state of the machine.

        Goes on, up to three times as long, until is_decided(result)."""
        count = self.peer_pairs if server.role == "peer" else self.count_for(row)
        ours, theirs = [], []
        while True:
            for _ in range(count):
                if len(ours) % 2 == 0:
                    theirs.append(self.run(base, row, ()))
                    ours.append(self.run(server, row, more))
                else:
                    ours.append(self.run(server, row, more))
                    theirs.append(self.run(base, row, ()))
            result = dict(summarize(row, ours, theirs), is_extended=len(ours) > count)
            if is_decided is None or len(ours) >= 3 * count or is_decided(result):
                return result


def check_counts(server, row, said):
    """The floor counts its bytes: what came must have gone back."""
    found = re.search(r"bytes received=(\d+) sent=(\d+)", said)
    if server.role in ("floor", "tried") and row.load[1] == "echo" and \
            (found is None or found.group(1) != found.group(2)):
        raise process.Failed("%s lost bytes: %s" % (server.name, said.strip()))


def is_generator_bound(run):
    """The generator was the bottleneck, the server had time to spare."""
    return run["server_cpu_s"] / run["seconds"] < 0.93 and run["own_load"] > 0.95


def choose_metric(row, ours, theirs, disturbed):
    """Where the generator is the bottleneck and the base had time to spare, rates say
    little; where others took the machine from most runs, they say nothing: then the
    CPU time the servers took for each message is compared, which neither changes.

    But over loopback whoever sends while the other end is idle does the other's TCP work,
    too: 64 KiB cost one and the same server 20 us where the generator was the bottleneck and
    30 where it was itself. So where the bottleneck was not the same one in more than a quarter
    of the pairs, the CPU time of both ends together is compared.
    """
    if row.metric not in ("rate", "bytes_per_s") or row.tried:
        return row.metric
    bound = [is_generator_bound(t) for t in theirs]
    if sum(bound) * 2 <= len(theirs) and disturbed <= len(ours):
        return row.metric
    moved = sum(is_generator_bound(o) != b for o, b in zip(ours, bound))
    return "both" if moved * 4 > len(ours) else "cpu"


def summarize(row, ours, theirs):
    """Medians and quartiles of the ratios within pairs."""
    disturbed = sum(r["others"] > OTHERS_MAX for r in ours + theirs)
    metric = choose_metric(row, ours, theirs, disturbed)
    costs = [o["cost"] / t["cost"] for o, t in zip(ours, theirs)]
    if metric == "cpu":
        ratios = [1 / cost for cost in costs]
    elif metric == "both":
        ratios = [t["cost_of_both"] / o["cost_of_both"] for o, t in zip(ours, theirs)]
    elif metric == "cost":
        ratios = costs
    else:
        ratios = [o[metric] / t[metric] for o, t in zip(ours, theirs)]
    return {
        "metric": metric, "ratio": median(ratios), "q1": quantile(ratios, 0.25),
        "q3": quantile(ratios, 0.75), "ratios": ratios, "pairs": len(ratios),
        "cpu_ratio": median(costs), "cpu_q1": quantile(costs, 0.25),
        "cpu_q3": quantile(costs, 0.75),
        "rate": median([o["rate"] for o in ours]), "base_rate": median([t["rate"] for t in theirs]),
        "bytes_per_s": median([o["bytes_per_s"] for o in ours]),
        "base_bytes_per_s": median([t["bytes_per_s"] for t in theirs]),
        "server_us": median([o["server_us"] for o in ours]),
        "base_server_us": median([t["server_us"] for t in theirs]),
        "both_us": median([o["cost_of_both"] for o in ours]) * 1e6,
        "base_both_us": median([t["cost_of_both"] for t in theirs]) * 1e6,
        "p50_us": median([o["p50_us"] for o in ours]),
        "p99_us": median([o["p99_us"] for o in ours]),
        "base_p50_us": median([t["p50_us"] for t in theirs]),
        "base_p99_us": median([t["p99_us"] for t in theirs]),
        "cc": ours[0]["cc"],
        "disturbed": disturbed,
    }
