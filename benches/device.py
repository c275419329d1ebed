"""What a save of tensors on a GPU takes, beside what it is made of: the copy to the host, and the write."""
from contest import To

SAVE = "libckpt, from the device"


def copies(b):
    """Through pinned memory to a durable file, where the copy takes as long as the write, and half and twice as long."""
    with b.worker("device", 100, b.big) as w:
        w("begin")
        c = {"copy": lambda: w("copy"), "write": To(b.dir, "w.weights.h5", lambda p: w("write", p)),
             SAVE: To(b.dir, "d.weights.h5", lambda p: w("save", p))}
        wrote = []
        for _ in range(3):
            wrote.append(c["write"]()["secs"])
            c["write"].tidy()
        for times in (1, 2, 0.5):
            w("rate", times * 100 * b.big / sorted(wrote)[1])
            what = {1: "as fast as", 2: "twice as fast as", 0.5: "half as fast as"}[times]
            r = b.compete(f"device to durable file, {b.size}, the copy {what} the write", c, 7, 15)
            longer = zip(r["copy"]["secs"], r["write"]["secs"])
            r["the longer of copy and write"] = {"secs": [max(pair) for pair in longer]}
            b.bar(f"device to file {b.size}, the copy {what} the write / the longer of the two", r, SAVE,
                  "the longer of copy and write", 1.1)
