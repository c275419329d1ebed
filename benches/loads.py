"""What a load takes, checksums verified."""
import contextlib
import os

import numpy as np

import peers
from contest import timed
from costs import SMALL


def warm(b):
    """From the page cache, to memory that has been touched, beside a plain pread by as many threads."""
    cores = len(os.sched_getaffinity(0))
    with b.worker("speed", 100, b.big) as w:
        for ending in (".weights.h5", ".keras"):
            w("save_path", "l" + ending)
        w("offsets", *peers.offsets(os.path.join(b.dir, "l.weights.h5"), 100))
        # Where malloc's memory of this size begins; and where a plain pread is at its best (copies_slowly in
        # src/reader/load.rs), so that the time of the checksums shows.
        for start, what in ((16, "16 bytes behind a page, as malloc's"), (64, "64 bytes behind a page")):
            threads = f"pread, {cores} threads"
            c = {"libckpt": lambda: w("load", "l.weights.h5", start),
                 "libckpt, .keras": lambda: w("load", "l.keras", start),
                 threads: lambda: w("pread", "l.weights.h5", start, cores),
                 "pread, 1 thread": lambda: w("pread", "l.weights.h5", start, 1)}
            r = b.compete(f"load {b.size} in 100 tensors, warm, to memory {what}", c, 21, 8, settle=None)
            assert w("check", start)["same"]
            title = f"load {b.size} warm, to {start} behind a page"
            b.bar(f"{title} / pread", r, "libckpt", threads, 1.05)
            b.bar(f"{title}, .keras / pread", r, "libckpt, .keras", threads, 1.05)


def cold(b):
    """From the disk."""
    cores = len(os.sched_getaffinity(0))
    with b.worker("speed", 100, b.big) as w:
        w("save_path", "l.weights.h5")
        w("offsets", *peers.offsets(os.path.join(b.dir, "l.weights.h5"), 100))

        def dropped(*words):
            def run():
                stayed = w("drop", "l.weights.h5")["stayed"]
                assert stayed < 0.01, f"{stayed:.0%} of the file stay in the page cache"
                return w(*words)
            return run

        c = {"libckpt": dropped("load", "l.weights.h5", 16), "mmap": dropped("mmap", "l.weights.h5", 16),
             f"pread, {cores} threads": dropped("pread", "l.weights.h5", 16, cores),
             "pread, 1 thread": dropped("pread", "l.weights.h5", 16, 1)}
        r = b.compete(f"load {b.size} in 100 tensors, cold", c, 15, 30)
        assert w("check", 16)["same"]
    b.bar(f"load {b.size} cold / mmap", r, "libckpt", "mmap", 1 / 1.3)


def beside_the_peers(b):
    """512 MiB and 60,000 small tensors, warm, as each library loads its own file."""
    many = 6000 if b.quick else 60000
    for count, bytes_each, rounds, seconds in ((100, b.big, 7, 20), (many, SMALL, 2, 35)):
        with contextlib.ExitStack() as stack:
            w = stack.enter_context(b.worker("speed", count, bytes_each))
            tensors = peers.arrays(count, bytes_each)
            into = {p: np.ones_like(a) for p, a in tensors.items()}
            ours, theirs, tensor_file, torch_file = (os.path.join(b.dir, n) for n in
                                                     ("l.weights.h5", "h.weights.h5", "l.safetensors", "l.pt"))
            w("save_path", "l.weights.h5")
            peers.save_h5py(theirs, tensors)
            peers.save_safetensors(tensor_file, tensors)
            c = {"libckpt": lambda: w("load", "l.weights.h5", 16),
                 "libckpt, h5py's file": lambda: w("load", "h.weights.h5", 16),
                 "h5py": lambda: timed(lambda: peers.load_h5py(theirs, into)),
                 "safetensors": lambda: timed(lambda: peers.load_safetensors(tensor_file))}
            big = count == 100
            if b.torch and big:
                torch = peers.Torch(b.torch, tensors)
                torch.save(torch_file)
                c["torch.load"] = lambda: torch.load(torch_file)
            r = b.compete(f"load {b.size if big else f'{count:,} small tensors'}, warm, beside the peers", c, rounds,
                          seconds, settle=None, warm_up=int(big))
            assert all((into[p] == a).all() for p, a in tensors.items())
        if not big:
            b.bar(f"load {count:,} tensors / h5py", r, "libckpt", "h5py", 1 / 50)
            b.bar(f"load {count:,} tensors, h5py's file / h5py", r, "libckpt, h5py's file", "h5py", 1 / 50)
            sizes = [[float(os.path.getsize(f))] for f in (ours, theirs)]
            b.report.bar(f"size of the file of {count:,} tensors / h5py's", *sizes, 1.0, "MiB", "h5py")
        b.sweep()
