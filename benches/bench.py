"""make bench: libckpt against the machine and its peers, as ratios of one run, contestants taking turns.

usage: bench.py [--quick] [--only PART,...] [--docs DIRECTORY] PROGRAMS

PROGRAMS is the directory where setup.sh has put the programs `speed`, `device`, `decision` and, where the machine has the
library, `plain_hdf5`, and in `torch` what pip installed. Files are written to a directory below $CKPT_BENCH_DIR, by
default PROGRAMS. The results (bench.json, bars.md, pictures) go to PROGRAMS and, of a whole run, to the directory of
--docs. The exit status is 1 if a bar is not met. --quick takes small sizes and few rounds, to see that all works: its
figures say nothing.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

import costs
import device
import loads
import plot
import saves
from report import Report
from scene import Scene


def decision(b):
    """Nanoseconds of an event with three metrics and nothing due."""
    took = subprocess.check_output([b.program("decision")], text=True).split()
    for by, ns in zip(("epochs", "batches"), took):
        b.report.limit(f"decision, nothing due, session by {by}", [float(ns) * 1e-9], 300e-9, "us")


PARTS = {
    "machine": saves.against_the_machine, "peers": saves.against_the_peers, "sizes": saves.other_sizes,
    "large": saves.large, "stall": costs.stall, "training": costs.training, "memory": costs.memory,
    "many": costs.many_tensors, "tensor": costs.per_tensor, "curve": costs.curve, "warm": loads.warm,
    "cold": loads.cold, "loads": loads.beside_the_peers, "device": device.copies,
    "decision": decision,
}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--docs")
    parser.add_argument("programs")
    args = parser.parse_args()
    programs = os.path.abspath(args.programs)
    directory = tempfile.mkdtemp(prefix="files-", dir=os.environ.get("CKPT_BENCH_DIR", programs))
    try:
        report = Report(directory, args.quick)
        scene = Scene(report, directory, programs, os.path.join(programs, "torch"), args.quick)
        for part in args.only.split(","):
            PARTS[part](scene)
            scene.sweep()
    finally:
        shutil.rmtree(directory)
    results = [programs]
    if args.docs and not args.quick and args.only == ",".join(PARTS):
        os.makedirs(args.docs, exist_ok=True)
        results.append(args.docs)
    above = report.finish(results)
    for directory in results:
        plot.draw(report.data, directory)
    sys.exit(1 if above else 0)


if __name__ == "__main__":
    main()
