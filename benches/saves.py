"""What a save takes: against the machine, and against those who save the same tensors otherwise."""
import contextlib
import shutil

import peers
from contest import To, timed
from scene import MIB

DURABLE, RECYCLED, ARENA = "libckpt", "libckpt, recycled", "libckpt COPY"


def against_the_machine(b):
    """Durable and not, beside pwrite with and without fsync."""
    with b.worker("speed", 100, b.big) as w:
        c = {kind: b.machine(w, kind) for kind in ("pwrite", "pwrite + fsync", "O_DIRECT", "O_DIRECT, again")}
        b.ours(w, c, DURABLE)
        b.ours(w, c, RECYCLED, recycle=1)
        b.ours(w, c, RECYCLED + ", .keras", ending=".keras", recycle=1)
        b.ours(w, c, ARENA, **{"async": 1, "recycle": 1})
        b.ours(w, c, "libckpt, not durable", durability=1)
        r = b.compete(f"save {b.size} in 100 tensors, beside the machine", c, 15, 60, ("secs", "stall", "background"),
                      cache=(b.dir, 100 * b.big))
    title = f"durable {b.size}: "
    b.bar(title + "first file / pwrite + fsync", r, DURABLE, "pwrite + fsync", 0.65)
    b.bar(title + "recycled / pwrite + fsync", r, RECYCLED, "pwrite + fsync", 0.45)
    b.bar(title + "arena (COPY's background) / pwrite + fsync", r, ARENA, "pwrite + fsync", 0.35, "background", "secs")
    b.bar(title + ".keras / .weights.h5", r, RECYCLED + ", .keras", RECYCLED, 1.06)
    b.bar(f"not durable {b.size} / pwrite to a fresh file", r, "libckpt, not durable", "pwrite", 1.03)
    b.bar("CPU: durable from malloc / pwrite + fsync", r, RECYCLED, "pwrite + fsync", 0.6, "cpu")
    b.bar("CPU: durable from the arena / pwrite + fsync", r, ARENA, "pwrite + fsync", 1 / 3, "cpu_background", "cpu")


def keras_saves(b, contestants):
    model = peers.keras_model(100, b.big)
    for ending, save in ((".weights.h5", model.save_weights), (".keras", model.save)):
        contestants[f"Keras {ending}"] = To(b.dir, f"p-keras{ending}", lambda p, save=save: timed(lambda: save(p)),
                                            keep=True)


def against_the_peers(b):
    """Durable, beside libraries that do not flush (torch.distributed.checkpoint does), and how long each stops the
    training. Each replaces its checkpoint of the round before."""
    with contextlib.ExitStack() as stack:
        w = stack.enter_context(b.worker("speed", 100, b.big))
        c = {"pwrite + fsync": b.machine(w, "pwrite + fsync")}
        c["memcpy"] = lambda: w("memcpy", "warm")
        b.ours(w, c, RECYCLED, recycle=1)
        b.ours(w, c, RECYCLED + ", .keras", ending=".keras", recycle=1)
        b.ours(w, c, ARENA, **{"async": 1, "recycle": 1})
        b.ours(w, c, ARENA + ", .keras", ending=".keras", **{"async": 1, "recycle": 1})
        b.ours(w, c, "libckpt BORROW", **{"async": 2, "recycle": 1})
        b.hdf5(stack, c, 100, b.big, keep=True)
        b.python(c, peers.arrays(100, b.big), keep=True)
        keras_saves(b, c)
        r = b.compete(f"save {b.size} in 100 tensors, beside the peers", c, 7, 70, ("secs", "stall", "background"),
                      cache=(b.dir, 100 * b.big))
    for ending, malloc, arena in ((".weights.h5", 3, 4), (".keras", 6, 8)):
        more = "" if ending == ".weights.h5" else ", .keras"
        title = f"durable {b.size} {ending}, "
        b.bar(f"{title}malloc / Keras' (not flushed)", r, RECYCLED + more, f"Keras {ending}", 1 / malloc)
        b.bar(f"{title}arena / Keras' (not flushed)", r, ARENA + more, f"Keras {ending}", 1 / arena, "background",
              "secs")


def other_sizes(b):
    """8 MiB and 512 MiB in one tensor, in a hundred, in 60,000: what the bars do not ask."""
    whole = 100 * b.big
    for count, bytes_each, rounds, seconds in ((1, 8 * MIB, 9, 6), (100, 8 * MIB // 100 // 64 * 64, 9, 6),
                                               (1, whole, 5, 20), (60000, whole // 60000 // 16 * 16, 3, 30)):
        with contextlib.ExitStack() as stack:
            w = stack.enter_context(b.worker("speed", count, bytes_each))
            c = {"pwrite + fsync": b.machine(w, "pwrite + fsync")}
            b.ours(w, c, DURABLE)
            b.ours(w, c, RECYCLED, recycle=1)
            b.ours(w, c, ARENA, **{"async": 1, "recycle": 1})
            few = ("safetensors", "torch.save") if count * bytes_each > 8 * MIB else ()
            b.python(c, peers.arrays(count, bytes_each), few)
            if not few:
                b.hdf5(stack, c, count, bytes_each)
            size = "8 MiB" if bytes_each * count <= 8 * MIB else b.size
            b.compete(f"save {size} in {count:,} tensor{'s' * (count > 1)}", c, rounds, seconds,
                      ("secs", "stall", "background"))
        b.sweep()


def large(b):
    """4 GiB, where the machine has room and time for it."""
    need = 4 << 30
    with open("/proc/meminfo") as f:
        memory = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))
    disk = shutil.disk_usage(b.dir).free
    if b.quick:
        return b.report.missing("4 GiB", "this is a quick run")
    if memory < 4 * need or disk < 5 * need:
        return b.report.missing("4 GiB", f"{memory >> 30} GiB of memory and {disk >> 30} GiB of disk are free")
    with b.worker("speed", 100, need // 100 // 4096 * 4096) as w:
        plain = b.machine(w, "pwrite + fsync")
        if plain()["secs"] > 12:
            return b.report.missing("4 GiB", "the disk takes too long")
        plain.tidy()
        c = {"pwrite + fsync": plain}
        b.ours(w, c, RECYCLED, recycle=1, warm=2)
        b.ours(w, c, ARENA, warm=2, **{"async": 1, "recycle": 1})
        b.compete("save 4 GiB in 100 tensors", c, 2, 30, ("secs", "stall", "background"), warm_up=0)
