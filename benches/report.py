"""What is shown of the measurements: tables of the contestants, the list of the bars, and both as files."""
import json
import os
import platform
import statistics
import subprocess
import time

SCALE = {"ms": 1e3, "us": 1e6, "MiB": 1 / 2**20, "": 1}


def spread(values):
    """Median, quartiles, minimum and maximum."""
    v = sorted(values)
    low, _, high = statistics.quantiles(v, n=4, method="inclusive") if len(v) > 1 else (v[0],) * 3
    return {"median": statistics.median(v), "quartiles": [low, high], "min": v[0], "max": v[-1], "rounds": len(v)}


def rounded(x):
    if isinstance(x, float):
        return float(f"{x:.4g}")
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    return [rounded(v) for v in x] if isinstance(x, list) else x


def short(x):
    return f"{x:.3f}" if x >= 0.1 else f"{x:.3g}"


def machine(directory):
    """The machine, in words."""
    def first(path, key):
        with open(path) as f:
            return next((line.split(":", 1)[1].strip() for line in f if line.startswith(key)), "?")
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split() for line in f]
    real = os.path.realpath(directory)
    held = [m for m in mounts if os.path.commonpath([m[4], real]) == m[4]]
    mount = max(enumerate(held), key=lambda m: (len(m[1][4]), m[0]))[1]
    rest = mount[mount.index("-") + 1:]
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as f:
        huge = f.read().split("[")[1].split("]")[0]
    return {
        "cpu": first("/proc/cpuinfo", "model name"), "cores": len(os.sched_getaffinity(0)),
        "memory_gib": int(first("/proc/meminfo", "MemTotal").split()[0]) / 2**20,
        "kernel": f"{platform.system()} {platform.release()}", "file_system": rest[0], "device": rest[1],
        "mount_options": mount[5], "huge_pages": huge, "busy_before": busy(),
        "date": time.strftime("%Y-%m-%d"), "commit": commit(),
    }


def busy(secs=1.0):
    """How much of the processors' time others take, and the disk makes them wait."""
    def ticks():
        with open("/proc/stat") as f:
            times = [int(t) for t in f.readline().split()[1:9]]
        return times[3], sum(times)
    idle, every = ticks()
    time.sleep(secs)
    return 1 - (ticks()[0] - idle) / max(1, ticks()[1] - every)


def commit():
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        return subprocess.check_output(["git", "-C", here, "describe", "--always", "--dirty"], text=True,
                                       stderr=subprocess.DEVNULL).strip()
    except (OSError, subprocess.CalledProcessError):
        return "?"


class Report:
    def __init__(self, directory, quick):
        self.begun = time.monotonic()
        self.data = {"machine": machine(directory), "quick": quick, "missing": {}, "cases": {}, "bars": []}
        m = self.data["machine"]
        print(f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']:.0f} GiB, {m['kernel']}, {m['file_system']} on "
              f"{m['device']} ({m['mount_options']}), huge pages: {m['huge_pages']}")
        if m["busy_before"] > 0.1:
            print(f"Others keep {m['busy_before']:.0%} of the machine busy: what follows is not to be trusted.")

    def elapsed(self):
        return time.monotonic() - self.begun

    def missing(self, peer, why):
        self.data["missing"][peer] = why
        print(f"without {peer}: {why}", flush=True)

    def case(self, title, answers, keys=("secs",)):
        """A table of contestants: medians with quartiles, minimum and maximum."""
        unit = "ms"
        print(f"\n{title}   [{self.elapsed():.0f} s]")
        print(f"  {'':38}{unit:>10}{'quartiles':>22}{'min':>10}{'max':>10}{'CPU':>10}  rounds")
        kept = self.data["cases"].setdefault(title, {})
        for name, got in answers.items():
            for key in keys:
                if not got or key not in got[0]:
                    continue
                s = spread([g[key] for g in got])
                label = name if key == "secs" else f"{name}: {key}"
                cpu = statistics.median(g["cpu"] for g in got) * 1e3 if key == "secs" and "cpu" in got[0] else None
                times = [f"{x * 1e3:.3f}" if x < 0.01 else f"{x * 1e3:.1f}"
                         for x in (s["median"], *s["quartiles"], s["min"], s["max"])]
                print(f"  {label:38}{times[0]:>10}{times[1] + ' to ' + times[2]:>22}{times[3]:>10}{times[4]:>10}"
                      f"{'' if cpu is None else f'{cpu:.1f}':>10}  {s['rounds']}", flush=True)
            kept[name] = {key: [g[key] for g in got] for key in (got[0] if got else ())}

    def bar(self, name, ours, reference, bar, unit="ms", against=""):
        """A ratio that may be at most so much: the median of the ratios round by round."""
        ratios = spread([a / b for a, b in zip(ours, reference)])
        self.row(name, statistics.median(ours), statistics.median(reference), ratios, bar, unit, against)

    def limit(self, name, ours, limit, unit):
        """A figure that may itself be at most so much."""
        self.row(name, statistics.median(ours), limit, spread([x / limit for x in ours]), 1.0, unit, "the limit")

    def row(self, name, ours, reference, ratios, bar, unit, against):
        verdict = "ok" if ratios["median"] <= bar else "ABOVE"
        self.data["bars"].append({"name": name, "ours": ours, "reference": reference, "unit": unit, "against": against,
                                  "ratio": ratios, "bar": bar, "verdict": verdict})

    def not_measured(self, name, why, counts=True):
        self.data["bars"].append({"name": name, "verdict": "MISSING" if counts else "left out", "why": why})

    def finish(self, directories):
        """Prints the list of the bars, and writes it and all that was measured; whether any bar is not met."""
        self.data["seconds"] = self.elapsed()
        print(f"\n{'':66}{'ours':>11}{'reference':>11}      {'ratio':>7}  {'quartiles':>16}  {'bar':>7}")
        for b in self.data["bars"]:
            if "ratio" in b:
                ours, reference, ratio, low, high, bar = figures(b)
                print(f"{b['name']:66}{ours:>11}{reference:>11} {b['unit']:4} {ratio:>7}  {low + ' to ' + high:>16}  "
                      f"{bar:>7}  {b['verdict']}")
            else:
                print(f"{b['name']:66}{b['verdict']}: {b['why']}")
        bad = [b for b in self.data["bars"] if b["verdict"] in ("ABOVE", "MISSING")]
        print(f"\n{len(self.data['bars'])} bars, {len(bad)} not met; {self.elapsed():.0f} s")
        for directory in directories:
            with open(os.path.join(directory, "bench.json"), "w") as f:
                json.dump(rounded(self.data), f, indent=1)
                f.write("\n")
            with open(os.path.join(directory, "bars.md"), "w") as f:
                f.write(self.markdown())
        return bool(bad)

    def markdown(self):
        m = self.data["machine"]
        lines = ["<!-- written by make bench -->",
                 f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']:.0f} GiB, {m['kernel']}, {m['file_system']} on "
                 f"{m['device']}; {m['date']}, {m['commit']}.", "",
                 "| | libckpt | reference | ratio (quartiles) | bar | |", "|---|---:|---:|---:|---:|---|"]
        for b in self.data["bars"]:
            if "ratio" in b:
                ours, reference, ratio, low, high, bar = figures(b)
                lines.append(f"| {b['name']} | {ours} {b['unit']} | {reference} {b['unit']} | "
                             f"{ratio} ({low} to {high}) | {bar} | {b['verdict']} |")
            else:
                lines.append(f"| {b['name']} | | | | | {b['verdict']}: {b['why']} |")
        return "\n".join(lines) + "\n"


def figures(bar):
    """What is shown of a bar: ours, the reference, the ratio with its quartiles, the bar."""
    scale, ratio = SCALE[bar["unit"]], bar["ratio"]
    return (f"{bar['ours'] * scale:.3f}", f"{bar['reference'] * scale:.3f}",
            *map(short, (ratio["median"], *ratio["quartiles"], bar["bar"])))
