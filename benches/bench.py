"""make bench: what libckpt takes, as ratios against the machine and its peers in the same, interleaved run.

usage: bench.py LIBCKPT.so DECISION_PROGRAM [ROUNDS]

Every figure is a median over rounds; within a round the contestants run one after the other on the same buffers, each
to a new file. Nothing is flushed to the disk here: h5py and Keras do not, and a plain pwrite does not either. What is
loaded is in the page cache, and goes to memory that has been touched.
"""
import ctypes
import gc
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "python"))
from capi import Lib

CONFIG = '{"module": "keras", "class_name": "Sequential", "config": {"name": "m", "layers": []}}'


def model_of(lib, tensors):
    names = {g: g.rsplit("/", 1)[-1] for g in {p.rsplit("/vars/", 1)[0] for p, _ in tensors}}
    return lib.model(tensors, names, CONFIG)


def session_of(lib, template):
    return lib.session(template, durability=1, save_weights_only=ctypes.c_bool(template.endswith(".weights.h5")))


def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def with_h5py(path, tensors):
    """The same file as Keras' saving writes it: a group with a name for each layer, a dataset for each variable."""
    with h5py.File(path, "w") as f:
        for p, a in tensors:
            group, _, leaf = p.rpartition("/")
            g = f.get(group)
            if g is None:
                g = f.create_group(group)
                g.attrs["name"] = group.split("/")[-2]
            g[leaf] = a


def with_pwrite(path, tensors):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    at = 0
    for _, a in tensors:
        view = memoryview(a).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], at + done)
        at += len(view)
    os.close(fd)


def load_with_h5py(path, tensors):
    """As Keras' loading reads it: group by group, a dataset for each variable."""
    with h5py.File(path) as f:
        group, g = None, None
        for p, a in tensors:
            above, _, leaf = p.rpartition("/")
            if above != group:
                group, g = above, f[above]
            g[leaf].read_direct(a)


def extents(path, tensors):
    """Where the bytes of each tensor are."""
    with h5py.File(path) as f:
        return [f[p].id.get_offset() + f.userblock_size for p, _ in tensors]


def load_with_pread(path, tensors, offsets):
    """With as many threads as the library takes."""
    fd = os.open(path, os.O_RDONLY)

    def read(a, at):
        view = memoryview(a).cast("B")
        done = 0
        while done < len(view):
            done += os.preadv(fd, [view[done:]], at + done)

    with ThreadPoolExecutor(min(os.cpu_count(), 16)) as pool:
        list(pool.map(read, (a for _, a in tensors), offsets))
    os.close(fd)


def at(start):
    """Makes memory for the like of an array that begins so many bytes behind the start of a page."""
    def like(a):
        raw = np.ones(a.nbytes + 2 * mmap.PAGESIZE, np.uint8)
        first = -raw.ctypes.data % mmap.PAGESIZE + start
        return raw[first:first + a.nbytes].view(a.dtype).reshape(a.shape)
    return like


def small(groups, per_group, shape):
    rng = np.random.default_rng(0)
    return [(f"layers/dense_{i}/vars/{j}", rng.standard_normal(shape, dtype=np.float32))
            for i in range(groups) for j in range(per_group)]


class Bench:
    def __init__(self, lib, directory, rounds):
        self.lib, self.dir, self.rounds, self.failed = lib, directory, rounds, 0

    def interleave(self, contestants, rounds=None):
        """Runs each contestant once a round, in a turning order; {name: [seconds]}."""
        took = {name: [] for name in contestants}
        names = list(contestants)
        for r in range((rounds or self.rounds) + 1):
            for name in names[r % len(names):] + names[:r % len(names)]:
                path = os.path.join(self.dir, name)
                if os.path.exists(path):
                    os.unlink(path)
                gc.collect()
                seconds = contestants[name](path)
                if r > 0:  # the first is a warm-up
                    took[name].append(seconds)
        return took

    def row(self, what, took, peer, bars):
        for name, bar in bars.items():
            ratios = sorted(a / b for a, b in zip(took[name], took[peer]))
            ratio = statistics.median(ratios)
            verdict = "ok" if ratio <= bar else "ABOVE"
            self.failed += ratio > bar
            print(f"{what:34} {name:18} {statistics.median(took[name]) * 1e3:9.2f} ms  {ratio:8.4f} x {peer:7}"
                  f"  ({ratios[0]:.4f} to {ratios[-1]:.4f})  bar {bar:.3f}  {verdict}", flush=True)
        print(f"{what:34} {peer:18} {statistics.median(took[peer]) * 1e3:9.2f} ms", flush=True)

    def replay(self, tensors, template):
        """A contestant that makes further saves of one model."""
        model, session = model_of(self.lib, tensors), session_of(self.lib, os.path.join(self.dir, template))

        def run(_):
            self.lib.epoch_end(session, 0)
            return timed(lambda: self.lib("ckpt_save", session, model))
        return run

    def first(self, tensors, template):
        """A contestant that makes the first save of a new model each time."""
        session = session_of(self.lib, os.path.join(self.dir, template))

        def run(_):
            model = model_of(self.lib, tensors)
            self.lib.epoch_end(session, 0)
            seconds = timed(lambda: self.lib("ckpt_save", session, model))
            self.lib.c.ckpt_model_free(model)
            return seconds
        return run


    def load(self, model, file):
        """A contestant that opens a file, loads all of it, and closes it."""
        path = os.path.join(self.dir, file).encode()

        def work():
            reader = self.lib.make("ckpt_reader_open", path)
            self.lib("ckpt_reader_load", reader, model)
            self.lib.c.ckpt_reader_free(reader)
        return lambda _: timed(work)

    def load_rows(self, what, peer, with_peer, files, tensors, bar, rounds, like):
        """Loads these tensors from each of the files that hold them, and with a peer."""
        into = [(p, like(a)) for p, a in tensors]
        model = self.lib.model(into)
        loads = {f"load {file}": self.load(model, file) for file in files}
        took = self.interleave({peer: lambda _: timed(lambda: with_peer(into)), **loads}, rounds)
        assert all((a == b).all() for (_, a), (_, b) in zip(tensors, into))
        self.row(what, took, peer, dict.fromkeys(loads, bar))
        self.lib.c.ckpt_model_free(model)


def main():
    lib = Lib(sys.argv[1])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 9
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    print(f"machine: {cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
          f"h5py {h5py.__version__} (HDF5 {h5py.version.hdf5_version}), medians of {rounds} rounds (min to max)")
    directory = tempfile.mkdtemp(prefix="ckpt-bench-", dir=os.environ.get("CKPT_BENCH_DIR", "."))
    bench = Bench(lib, directory, rounds)
    try:
        by_epoch, by_batch = map(float, subprocess.check_output([sys.argv[2]]).split())
        for name, ns in (("by epochs", by_epoch), ("by batches", by_batch)):
            bench.failed += ns >= 300
            print(f"{'decision, nothing due':34} {name:18} {ns:9.1f} ns  bar 300  {'ok' if ns < 300 else 'ABOVE'}")

        tensors = small(200, 3, (8, 8))
        took = bench.interleave({
            "h5py": lambda p: timed(lambda: with_h5py(p, tensors)),
            "a.weights.h5": bench.replay(tensors, "a.weights.h5"),
            "a.keras": bench.replay(tensors, "a.keras"),
        }, rounds * 3)
        bench.row("600 small tensors, replay", took, "h5py", {"a.weights.h5": 1 / 20, "a.keras": 1 / 20 + 0.1})

        big = [(f"layers/dense_{i}/vars/0", np.random.default_rng(i).standard_normal((1310, 1024), dtype=np.float32))
               for i in range(100)]
        took = bench.interleave({
            "pwrite": lambda p: timed(lambda: with_pwrite(p, big)),
            "b.weights.h5": bench.replay(big, "b.weights.h5"),
            "b.keras": bench.replay(big, "b.keras"),
        })
        bench.row("512 MiB in 100 tensors", took, "pwrite", {"b.weights.h5": 1.15, "b.keras": 1.25})
        file = os.path.join(directory, "b.weights.h5")
        offsets = extents(file, big)
        # Memory begins where malloc's does, of this size; and where a plain pread is at its best (see copies_slowly in
        # src/reader/load.rs), so that the time of the checksums shows.
        for start, bar in ((16, 1.1), (64, 1.1)):
            bench.load_rows(f"512 MiB to {start} behind a page", "pread",
                            lambda into: load_with_pread(file, into, offsets), ["b.weights.h5", "b.keras"], big, bar,
                            rounds * 3, at(start))
        del big

        tensors = small(20000, 3, (4,))
        took = bench.interleave({
            "h5py": lambda p: timed(lambda: with_h5py(p, tensors)),
            "c.weights.h5": bench.first(tensors, "c.weights.h5"),
            "c.keras": bench.first(tensors, "c.keras"),
        }, 3)
        bench.row("60,000 tensors, first save", took, "h5py", {"c.weights.h5": 1 / 20, "c.keras": 1 / 20 + 0.1})
        theirs = os.path.join(directory, "h5py.weights.h5")
        os.rename(os.path.join(directory, "h5py"), theirs)
        bench.load_rows("60,000 tensors, load", "h5py reads", lambda into: load_with_h5py(theirs, into),
                        ["h5py.weights.h5", "c.weights.h5", "c.keras"], tensors, 1 / 20, 3, np.ones_like)
        ours, theirs = (os.path.getsize(os.path.join(directory, n)) for n in ("c.weights.h5", "h5py.weights.h5"))
        bench.failed += ours > theirs
        print(f"{'60,000 tensors, file size':34} {ours} bytes, {ours / theirs:.3f} x h5py's"
              f"  bar 1.000  {'ok' if ours <= theirs else 'ABOVE'}")
    finally:
        shutil.rmtree(directory)
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
