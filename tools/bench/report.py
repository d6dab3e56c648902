"""Verdicts, the table on the screen, build/bench.json and build/bench.svg."""

import json
import textwrap
from xml.sax.saxutils import escape

WIDTH = 96
INSTRUCTIONS_MAX = 260
SYSCALLS_MAX = 2.05
CALLS_RATIO_MAX = 1.02
BAR_MAX = 1.6  # longer bars are cut
COLOUR = {"netkit": "#2166ac", "libev": "#b2abd2", "libuv": "#fdb863", "libuv-plain": "#e08214",
          "libevent": "#b35806", "asio": "#8073ac"}


def met(value, sense, target):
    return value <= target if sense == "<=" else value >= target


def agreed(result):
    """True or False when both quartiles say so of the target, None when they straddle it."""
    sides = {met(result[key], result.get("sense", ">="), result["target"]) for key in ("q1", "q3")}
    return sides.pop() if len(sides) == 1 else None


def verdict(result, structure):
    """pass or miss when both quartiles agree; else instructions and calls decide.

    `structure` holds netkit's instructions and system calls a message, if known.
    """
    target, sense = result.get("target"), result.get("sense", ">=")
    if target is None:
        return ""
    if "q1" not in result:
        return "pass" if met(result["value"], sense, target) else "MISS"
    if agreed(result) is not None:
        return "pass" if agreed(result) else "MISS"
    if "calls_ratio" in result:
        return "pass*" if result["calls_ratio"] <= CALLS_RATIO_MAX else "MISS*"
    if result.get("decide") != "structure":
        return "pass" if met(result["ratio"], sense, target) else "MISS"
    if structure.get("instructions") is None or structure.get("syscalls") is None:
        return "open"
    good = structure["instructions"] <= INSTRUCTIONS_MAX and structure["syscalls"] <= SYSCALLS_MAX
    return "pass*" if good else "MISS*"


def human(value):
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return "%.3g%s" % (value / limit * (10 if unit == "k" else 1), unit)
    return "%.0f" % value


HEAD = "%-12s %-6s %7s  %-13s %9s %9s %8s  %-7s %s" % (
    "server", "by", "ratio", "quartiles", "rate/s", "base/s", "us/msg", "target", "verdict")


def rate_line(result):
    bulk = result["bytes_per_s"] if result["metric"] == "bytes_per_s" or \
        result["row"].endswith("bulk") else result["rate"]
    base = result["base_bytes_per_s"] if result["row"].endswith("bulk") else result["base_rate"]
    target = ""
    if result.get("target") is not None:
        target = "%s%.2f" % (result["sense"], result["target"])
    name = {"bytes_per_s": "bytes", "p50_us": "p50", "cost": "us/msg"}.get(result["metric"], result["metric"])
    notes = ["%d pairs" % result["pairs"]] if result.get("is_extended") else []
    notes += ["calls %.3f" % result["calls_ratio"]] if "calls_ratio" in result else []
    notes += ["%d disturbed" % result["disturbed"]] if result["disturbed"] else []
    tail = (result.get("verdict", "") + ("  (%s)" % ", ".join(notes) if notes else "")).strip()
    return "%-12s %-6s %7.3f  %5.3f - %5.3f %9s %9s %8.3f  %-7s %s" % (
        result["server"], name, result["ratio"], result["q1"], result["q3"], human(bulk),
        human(base), result["server_us"], target, tail)


def value_line(result, unit):
    target = ""
    if result.get("target") is not None:
        target = "target %s %g" % (result["sense"], result["target"])
    note = result.get("note", "")
    value = ("%12.3f" if 0 < abs(result["value"]) < 1 else "%12.2f") % result["value"]
    return ("%-12s %s %-22s %-16s %-5s %s" % (
        result["server"], value, unit, target, result.get("verdict", ""), note)).rstrip()


def closing(results, skipped, seconds):
    counted = [r["verdict"].rstrip("*") for r in results if r.get("verdict")]
    line = "%d targets met, %d missed, %d open" % (
        counted.count("pass"), counted.count("MISS"), counted.count("open"))
    lines = ["", "%s; %d skipped; %.0f s" % (line, len(skipped), seconds)]
    if any(r.get("verdict", "").endswith("*") for r in results):
        lines.append("* the quartiles straddle the target: instructions and system calls decided")
    for r in results:
        if r.get("verdict", "").startswith("MISS"):
            lines.append("missed: %s, %s" % (r["title"], r["server"]))
    for text in skipped:
        lines += textwrap.wrap("skipped: " + text, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def write_json(path, machine, results, skipped):
    with open(path, "w") as f:
        json.dump({"machine": machine, "results": results, "skipped": skipped}, f, indent=1,
                  sort_keys=True)
        f.write("\n")


def bar(y, scale, left, result):
    """One bar with the quartiles as a line through its end."""
    value, q1, q3 = (min(result[key], BAR_MAX) for key in ("ratio", "q1", "q3"))
    colour = COLOUR.get(result["server"], "#67a9cf")
    return [
        '<rect x="%d" y="%d" width="%.1f" height="12" fill="%s"/>' % (
            left, y, value * scale, colour),
        '<path d="M%.1f %d h%.1f" stroke="#222"/>' % (
            left + q1 * scale, y + 6, (q3 - q1) * scale),
        '<text x="%d" y="%d" text-anchor="end">%s</text>' % (left - 6, y + 10,
                                                            escape(result["server"])),
        '<text x="%.1f" y="%d">%.2f</text>' % (left + max(q3, value) * scale + 5, y + 10,
                                               result["ratio"])]


def write_svg(path, results, title):
    """Bars of the ratios to the base, a group for each row; longer is better."""
    rated = [dict(r) for r in results if "ratio" in r and "pairs" in r]
    for r in rated:
        if r["sense"] == "<=":  # times: turned round, so that longer is better everywhere
            r["ratio"], r["q1"], r["q3"] = 1 / r["ratio"], 1 / r["q3"], 1 / r["q1"]
    left, scale, y = 110, 440, 44
    body = []
    for row in dict.fromkeys(r["row"] for r in rated):
        group = [r for r in rated if r["row"] == row]
        body.append('<text x="%d" y="%d" font-weight="bold">%s</text>' % (
            left, y + 10, escape(group[0]["title"])))
        y += 17
        for result in group:
            body += bar(y, scale, left, result)
            y += 16
        y += 10
    line = '<path d="M%d 34 V%d" stroke="#b2182b" stroke-dasharray="4 3"/>' % (left + scale, y)
    with open(path, "w") as f:
        f.write('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
                'font-family="sans-serif" font-size="11">\n' % (
                    left + int(BAR_MAX * scale) + 60, y + 12))
        f.write('<rect width="100%" height="100%" fill="#fff"/>\n')
        f.write('<text x="10" y="20" font-size="14">%s</text>\n' % escape(title))
        f.write("\n".join(body + [line]) + "\n</svg>\n")
