"""What a save costs the training, and what tensors cost however small they are."""
import contextlib
import statistics

import peers
from scene import MIB

SMALL = 128  # bytes


def stall(b):
    """How long ckpt_save keeps its caller where the rest is done in the background."""
    with b.worker("speed", 100, b.big) as w:
        c = {"memcpy": lambda: w("memcpy", "warm"), "memcpy, cold": lambda: w("memcpy", "cold")}
        b.ours(w, c, "COPY", **{"async": 1, "recycle": 1})
        b.ours(w, c, "BORROW", **{"async": 2, "recycle": 1})
        b.ours(w, c, "SNAPSHOT", **{"async": 3, "recycle": 1})
        r = b.compete(f"stall, {b.size} in 100 tensors", c, 15, 30, ("stall", "secs"))
    for kind in ("memcpy", "memcpy, cold"):
        r[kind]["stall"] = r[kind]["secs"]
    b.bar(f"stall {b.size}: COPY / memcpy to warm memory", r, "COPY", "memcpy", 0.95, "stall")
    b.limit("stall: BORROW, 100 tensors", r, "BORROW", 100e-6, "us", "stall")
    if "SNAPSHOT" in r:
        b.limit(f"stall {b.size}: SNAPSHOT", r, "SNAPSHOT", 5e-3, "ms", "stall")
    else:
        b.report.not_measured(f"stall {b.size}: SNAPSHOT", b.report.data["missing"]["SNAPSHOT"], counts=False)
    b.sweep()
    with b.worker("speed", 60000, 100 * b.big // 60000 // 16 * 16) as w:
        c = {}
        b.ours(w, c, "COPY", **{"async": 1, "recycle": 1})
        b.ours(w, c, "BORROW", **{"async": 2, "recycle": 1})
        r = b.compete(f"stall, {b.size} in 60,000 tensors", c, 7, 10, ("stall", "secs")) if c else {}
    b.limit("stall: BORROW, 60,000 tensors", r, "BORROW", 5e-3, "ms", "stall")


def training(b):
    """What background saves cost a loop on all cores: seconds of training that are lost to a save."""
    with b.worker("speed", 100, b.big) as w:
        c = {"pwrite + fsync": b.machine(w, "pwrite + fsync")}
        c["pwrite + fsync"].work = lambda _: w("train_plain", "m")
        name = b.ours(w, c, "COPY", **{"async": 1, "recycle": 1})
        if name:
            c["COPY"].work = lambda _: w("train_ours", name, 2)
        r = b.compete(f"training on all cores, a save of {b.size} always in the background", c, 11, 30,
                      ("secs", "lost", "stall"))
    b.bar("training lost to a background save: COPY / pwrite + fsync", r, "COPY", "pwrite + fsync", 1 / 4, "lost")


def memory(b):
    """The most memory above the model's, in a process that has not saved before."""
    whole = 100 * b.big
    for label, limit, options in (("synchronous save, above the model", 16 * MIB, {}),
                                  ("COPY, above the model", whole + 16 * MIB, {"async": 1})):
        with b.worker("speed", 100, b.big) as w:
            c = {}
            name = b.ours(w, c, label, recycle=1, warm=0, **options)
            if name:
                b.report.limit(f"memory: {label}, at most {limit // MIB} MiB", [w("memory", name, 4)["bytes"]], limit,
                               "MiB")
            else:
                b.report.not_measured(f"memory: {label}", b.report.data["missing"][label])
        b.sweep()


def many_tensors(b):
    """600 and 60,000 small tensors, nothing flushed, beside h5py and others."""
    many = 6000 if b.quick else 60000
    for count, rounds, seconds, ratio in ((600, 25, 8, 1 / 50), (many, 3, 40, 1 / 80)):
        with contextlib.ExitStack() as stack:
            w = stack.enter_context(b.worker("speed", count, SMALL))
            c = {}
            b.ours(w, c, "libckpt", durability=1)
            b.ours(w, c, "libckpt, first save", new=True, durability=1)
            b.python(c, peers.arrays(count, SMALL), ("h5py", "safetensors", "torch.save"))
            b.hdf5(stack, c, count, SMALL)
            c["libckpt"]()  # it makes further saves, and h5py is too slow for a round that warms up
            r = b.compete(f"save {count:,} small tensors, not durable", c, rounds, seconds, settle=0.01, warm_up=0)
        b.bar(f"{count:,} small tensors / h5py", r, "libckpt", "h5py", ratio)
        if count == many:
            b.bar(f"{count:,} small tensors, first save / h5py", r, "libckpt, first save", "h5py", 1 / 40)


def per_tensor(b):
    """How the cost of a save grows with the number of tensors, that of an empty save taken off."""
    counts = [0, 1, 100, 1000, 10000, 100000]
    with contextlib.ExitStack() as stack:
        c = {}
        for count in counts:
            w = stack.enter_context(b.worker("speed", count, SMALL))
            b.ours(w, c, f"{count:,} tensors", durability=1)
        r = b.compete("saves of small tensors, not durable", c, 25, 25, settle=None, repeat=9)
    empty = statistics.median(r["0 tensors"]["secs"])
    each = {count: [(secs - empty) / count for secs in r[f"{count:,} tensors"]["secs"]] for count in counts[2:]}
    medians = {count: statistics.median(v) for count, v in each.items()}
    most, least = max(medians, key=medians.get), min(medians, key=medians.get)
    print("  each tensor: " + ", ".join(f"{v * 1e6:.2f} us of {count:,}" for count, v in medians.items()))
    b.report.bar(f"cost per tensor, {most:,} / {least:,} (of 100 to 100,000)", each[most], each[least], 1.5, "us",
                 f"{least:,} tensors")


def curve(b):
    """The peers by the number of tensors, for the picture."""
    c = {}
    for count in (1, 100, 1000, 10000):
        one = {}
        slow = ("h5py",) if count < 10000 else ()
        b.python(one, peers.arrays(count, SMALL), ("safetensors", "torch.save", *slow))
        c |= {f"{name}, {count:,}": contestant for name, contestant in one.items()}
    b.compete("peers by the number of small tensors", c, 5, 12, settle=None)
