"""The rows that compare rates, and how they are measured: adjacent pairs."""

import contextlib
import re
import time

import process

# A pair is disturbed when others used more of a CPU than this.
OTHERS_MAX = 0.10

# A pair is measured in so many slices of each side, in turns, with so long before each: what the
# machine does for a tenth of a second or longer is the same to both.
SLICES = 7
SLICE_WARM_MS = 30


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
CHURN = ["--mode", "churn", "--conns", 50, "--size", 64]
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
    to_epoll("4K-50c", "4 KiB, 50 connections", ECHO + ["--inflight", 1, "--size", 4 * K], 0.97,
             pairs=11),
    to_epoll("4K-50c-16p", "4 KiB, 50 connections, 16 in flight",
             ECHO + ["--inflight", 16, "--size", 4 * K], 0.97, pairs=11),
    to_epoll("64K-50c", "64 KiB, 50 connections",
             ECHO + ["--inflight", 1, "--size", 64 * K] + CUBIC, 0.97, server=CUBIC, pairs=11),
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

    @contextlib.contextmanager
    def side(self, server, row, more):
        """A server with its generator; yields what measures a slice."""
        args = list(server.args) + list(row.server) + list(more)
        load = list(row.load) + ["--slices", SLICE_WARM_MS, "--time", self.time_ms // SLICES]
        with process.Running(self.builder.path(server.program), args) as running:
            with process.Sliced(self.builder.path("load"), running.port, running.pid,
                                load) as generator:
                yield lambda: judge(row, generator.measure())
                generator.stop()
            check_counts(server, row, running.stop())

    def pair_once(self, row, server, base, more):
        """Both at once, measured in turns: [(ours, theirs), ...]."""
        with self.side(base, row, ()) as measure_base, self.side(server, row, more) as measure:
            pairs = []
            for at in range(SLICES):
                if at % 2 == 0:
                    theirs = measure_base()
                    pairs.append((measure(), theirs))
                else:
                    ours = measure()
                    pairs.append((ours, measure_base()))
            return pairs

    def pair(self, row, server, base, more):
        """One pair, repeated once when others used the machine meanwhile."""
        start = time.monotonic()
        result = self.pair_once(row, server, base, more)
        if others(result) > OTHERS_MAX and start < self.retry_until:
            again = self.pair_once(row, server, base, more)
            if others(again) < others(result):
                result = again
        self.spent += time.monotonic() - start
        self.runs += 1
        return result

    def count_for(self, row):
        return max(self.pairs, row.pairs or 0)

    def seconds_for(self, pairs):
        """What so many pairs will take, by what they took until now."""
        each = self.spent / self.runs if self.runs else self.time_ms / 500 + 1
        return pairs * each

    def compare(self, row, server, base, more=(), is_decided=None):
        """Goes on, up to three times as long, until is_decided(result)."""
        count = self.peer_pairs if server.role == "peer" else self.count_for(row)
        found = []
        while True:
            found += [self.pair(row, server, base, more) for _ in range(count)]
            result = dict(summarize(row, found), is_extended=len(found) > count)
            if is_decided is None or len(found) >= 3 * count or is_decided(result):
                return result


def judge(row, result):
    """Of a slice: what its work has cost."""
    work = result["bytes"] if row.metric == "bytes_per_s" else result["messages"]
    result["cost"] = result["server_cpu_s"] / work
    result["cost_of_both"] = result["cost"] + result["own_load"] * result["seconds"] / work
    return result


def others(pair):
    """How much of a CPU others used during a pair."""
    def mean(side, key):
        return sum(run[key] for run in side) / len(side)

    # Of a slice it is known to 0.1 of a CPU either way: cut at 0 only when all are together.
    return median([max(0.0, mean(side, "other_load")) + mean(side, "steal")
                   for side in zip(*pair)])


def check_counts(server, row, said):
    """The floor counts its bytes: what came must have gone back."""
    found = re.search(r"bytes received=(\d+) sent=(\d+)", said)
    if server.role in ("floor", "tried") and row.load[1] == "echo" and \
            (found is None or found.group(1) != found.group(2)):
        raise process.Failed("%s lost bytes: %s" % (server.name, said.strip()))


def is_generator_bound(runs):
    """The generator was the bottleneck, the server had time to spare."""
    return median([run["server_cpu_s"] / run["seconds"] for run in runs]) < 0.93 and \
        median([run["own_load"] for run in runs]) > 0.95


def choose_metric(row, found, disturbed):
    """Where the generator is the bottleneck and the base had time to spare, rates say
    little; where others took the machine from most pairs, they say nothing: then the
    CPU time the servers took for each message is compared, which neither changes.

    But over loopback whoever sends while the other end is idle does the other's TCP work,
    too: 64 KiB cost one and the same server 20 us where the generator was the bottleneck and
    30 where it was itself. So where the bottleneck was not the same one in more than a quarter
    of the pairs, the CPU time of both ends together is compared.
    """
    if row.metric not in ("rate", "bytes_per_s") or row.tried:
        return row.metric
    bound = [[is_generator_bound(side) for side in zip(*pair)] for pair in found]
    if sum(theirs for _, theirs in bound) * 2 <= len(found) and disturbed * 2 <= len(found):
        return row.metric
    return "both" if sum(ours != theirs for ours, theirs in bound) * 4 > len(found) else "cpu"


def ratios_of(found, key):
    """Of each pair the median of its slices' ratios."""
    return [median([ours[key] / theirs[key] for ours, theirs in pair]) for pair in found]


def summarize(row, found):
    """Medians and quartiles of the ratios within pairs."""
    disturbed = sum(others(pair) > OTHERS_MAX for pair in found)
    metric = choose_metric(row, found, disturbed)
    costs = ratios_of(found, "cost")
    if metric == "cpu":
        ratios = [1 / cost for cost in costs]
    elif metric == "both":
        ratios = [1 / cost for cost in ratios_of(found, "cost_of_both")]
    else:
        ratios = ratios_of(found, metric)
    result = {
        "metric": metric, "ratio": median(ratios), "q1": quantile(ratios, 0.25),
        "q3": quantile(ratios, 0.75), "ratios": ratios, "pairs": len(ratios),
        "cpu_ratio": median(costs), "cpu_q1": quantile(costs, 0.25),
        "cpu_q3": quantile(costs, 0.75), "cc": found[0][0][0]["cc"], "disturbed": disturbed,
    }
    for prefix, at in (("", 0), ("base_", 1)):
        runs = [slices[at] for pair in found for slices in pair]
        for key in ("rate", "bytes_per_s", "server_us", "p50_us", "p99_us"):
            result[prefix + key] = median([run[key] for run in runs])
        result[prefix + "both_us"] = median([run["cost_of_both"] for run in runs]) * 1e6
    return result
