"""How contestants take turns, and the programs in C among them."""
import gc
import json
import os
import statistics
import subprocess
import time

SETTLE = 0.1  # seconds of rest before a contestant that writes to the disk


class Unsupported(Exception):
    """What was asked for is not to be had here; its text says why."""


class Worker:
    """A program that has tensors in its memory and takes commands (benches/worker.h)."""

    def __init__(self, program, directory, count, bytes_each):
        self.dir, self.count, self.bytes_each = directory, count, bytes_each
        self.process = subprocess.Popen([program, directory, str(count), str(bytes_each)], text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, *words):
        """Has it do a command; its answer."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it ended with {self.process.wait()}"}
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            raise RuntimeError(f"{self.process.args[0]} {' '.join(map(str, words))[:80]}: {answer['error']}")
        return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def timed(work):
    """Wall-clock and CPU seconds of a piece of work in this process."""
    cpu, start = time.process_time(), time.perf_counter()
    work()
    return {"secs": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def use_free_memory(directory, nbytes):
    """Has the page cache take so much memory, and give it back. In a virtual machine the host may have taken free
    memory away: whoever uses it first waits for it, up to eight times what a copy to it costs."""
    piece, path = bytes(4 << 20), os.path.join(directory, "warm")
    with open(path, "wb", buffering=0) as f:
        for _ in range(0, nbytes, len(piece)):
            f.write(piece)
    os.remove(path)


def interleave(contestants, rounds, seconds, settle=SETTLE, repeat=1, warm_up=1, cache=None):
    """Lets each contestant run once a round, in an order that changes; {name: [answer, ...]}, an answer a round.

    A first round warms up. No more rounds begin when `seconds` are over, but there are three at least. Before each
    run everything that is still to be written is written, so that no contestant pays for another, and with `cache` (a
    directory, bytes) as much free memory is used once; the files that they make are removed outside the time that is
    measured (a contestant that has a `tidy` is tidied after its run). With `repeat`, each runs so many times in a row, and its answers are the medians of these.
    """
    answers = {name: [] for name in contestants}
    names = list(contestants)
    begun = time.monotonic()
    for number in range(rounds + warm_up):
        turn = number % len(names)
        order = names[turn:] + names[:turn]
        for name in reversed(order) if number % 2 else order:
            run = contestants[name]
            gc.collect()
            got = []
            for _ in range(repeat):
                if settle is not None:
                    os.sync()
                    if cache:
                        use_free_memory(*cache)
                    time.sleep(settle)
                got.append(run())
                getattr(run, "tidy", lambda: None)()
            if number >= warm_up:
                answers[name].append({key: statistics.median(g[key] for g in got) for key in got[0]})
        if number >= 2 + warm_up and time.monotonic() - begun > seconds:
            break
    return answers


class To:
    """A contestant that writes a file: a new one each time, removed when it has been measured, or with `keep` one that
    replaces that of the time before, as a training's checkpoints do."""

    def __init__(self, directory, name, work, keep=False):
        self.path, self.work, self.keep = os.path.join(directory, name), work, keep

    def __call__(self):
        return self.work(self.path)

    def tidy(self):
        if not self.keep:
            remove(self.path)


def remove(path):
    """Removes a file, or a directory of files."""
    if os.path.isdir(path):
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.exists(path):
        os.unlink(path)
