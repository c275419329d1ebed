"""Where the benchmark takes place: its programs, its directory, its peers, and how sessions of libckpt come into it."""
import contextlib
import os

import peers
from contest import To, Unsupported, Worker, interleave, remove, timed

MIB = 1 << 20
BIG = 1310 * 1024 * 4  # a hundred of these are 512 MiB


class Scene:
    def __init__(self, report, directory, programs, torch_directory, quick):
        self.report, self.dir, self.programs, self.quick = report, directory, programs, quick
        self.big = BIG // 8 if quick else BIG
        self.torch, why = peers.torch_from(torch_directory)
        if why:
            report.missing("torch", why)
        if not os.path.exists(self.program("plain_hdf5")):
            report.missing("the HDF5 C library", "it could not be installed or built against")

    def program(self, name):
        return os.path.join(self.programs, name)

    @property
    def size(self):
        return "64 MiB" if self.quick else "512 MiB"

    def compete(self, title, contestants, rounds, seconds, keys=("secs",), **how):
        """A round-robin of contestants, shown as a table; {name: {key: [of each round]}}."""
        if self.quick:
            rounds, seconds = min(rounds, 3), min(seconds, 5)
        # A slow disk gets fewer rounds, so that all is done in ten minutes.
        seconds = min(seconds, max(0, 540 - self.report.elapsed()) / 2)
        answers = interleave(contestants, rounds, seconds, **how)
        self.report.case(title, answers, keys)
        return {name: {key: [g[key] for g in got] for key in got[0]} for name, got in answers.items()}

    def bar(self, name, results, ours, reference, bar, key="secs", reference_key=None):
        """A line of the list of bars: ours by the reference, at most `bar`."""
        for one in (ours, reference):
            if one not in results:
                return self.report.not_measured(name, self.report.data["missing"].get(one, f"no {one}"))
        self.report.bar(name, results[ours][key], results[reference][reference_key or key], bar, against=reference)

    def limit(self, name, results, ours, limit, unit, key="secs"):
        if ours not in results:
            return self.report.not_measured(name, self.report.data["missing"].get(ours, f"no {ours}"))
        self.report.limit(name, results[ours][key], limit, unit)

    @contextlib.contextmanager
    def worker(self, program, count, bytes_each):
        with Worker(self.program(program), self.dir, count, bytes_each) as worker:
            yield worker

    def machine(self, worker, kind, name="m"):
        """The machine itself: pwrite, pwrite with fsync, O_DIRECT to a new file and to the one before."""
        words = {"pwrite": ("pwrite", name), "pwrite + fsync": ("pwrite", name, "fsync"), "O_DIRECT": ("direct", name),
                 "O_DIRECT, again": ("direct", name + "-again", "again")}
        return To(self.dir, name, lambda _: worker(*words[kind]), keep=kind.endswith("again"))

    def ours(self, worker, contestants, label, ending=".weights.h5", new=False, warm=1, **options):
        """Adds a session to the contestants: of files that are removed after each save, so that each is a first one,
        or with `recycle` of files that its own retention removes. Where the library lacks an option, says so."""
        name = f"s{len(contestants)}"
        keyed = bool(options.get("recycle"))
        template = f"{name}-{{epoch}}{ending}" if keyed else name + ending
        options = {"keep_last": 1, **options} if keyed else {"recycle": 0, **options}
        try:
            worker("open", name, template, *(f"{k}={v}" for k, v in options.items()))
        except Unsupported as why:
            return self.report.missing(label, str(why))
        save = ("save", name, "new") if new else ("save", name)
        contestant = To(self.dir, template, lambda _: worker(*save))
        for _ in range(warm if keyed else 0):  # with a round that warms up, two saves that have nothing to recycle
            contestant()
        contestants[label] = contestant
        return name

    def python(self, contestants, tensors, only=(), keep=False):
        """Adds the peers in Python that save these tensors."""
        ways = {"h5py": lambda p: timed(lambda: peers.save_h5py(p, tensors)),
                "safetensors": lambda p: timed(lambda: peers.save_safetensors(p, tensors))}
        if self.torch:
            torch = peers.Torch(self.torch, tensors)
            ways |= {"torch.save": torch.save, "torch async_save": torch.async_save}
        for name, way in ways.items():
            if not only or name in only:
                contestants[name] = To(self.dir, "p-" + name.replace(" ", "-"), way, keep)

    def hdf5(self, stack, contestants, count, bytes_each, keep=False):
        """Adds the HDF5 C API, used plainly, where it is to be had."""
        if os.path.exists(self.program("plain_hdf5")):
            worker = stack.enter_context(self.worker("plain_hdf5", count, bytes_each))
            contestants["HDF5 in C++"] = To(self.dir, "p-hdf5", lambda _: worker("save", "p-hdf5"), keep)

    def sweep(self):
        """Removes what a part has left."""
        for name in os.listdir(self.dir):
            remove(os.path.join(self.dir, name))
