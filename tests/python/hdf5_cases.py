"""Datasets and groups in every way that h5py stores them, for reader_files.py."""

import ctypes
import itertools

import h5py
import numpy as np

NUMBERS = ["float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]
BIG_ENDIAN = [">f2", ">f4", ">f8", ">i2", ">u4", ">i8"]

rng = np.random.default_rng(7)

# HDF5 itself, for what h5py does not offer.
hdf5 = ctypes.CDLL(h5py.h5.__file__)
for function in ["H5Pset_chunk_opts", "H5Pset_nbit", "H5Pset_deflate", "H5Pset_shared_mesg_nindexes", "H5Pset_shared_mesg_index"]:
    getattr(hdf5, function).argtypes = [ctypes.c_int64] + [ctypes.c_uint] * 3


def values(dtype, shape):
    dtype = np.dtype(dtype)
    name = dtype.newbyteorder("=").name
    if name == "bool":
        return rng.integers(0, 2, shape).astype("bool")
    if name.startswith("f"):
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    info = np.iinfo(name)
    return np.asarray(rng.integers(info.min, info.max, shape, dtype=name, endpoint=True)).astype(dtype)


def put_bfloat16(group, name, shape, **options):
    """As Keras does: two opaque bytes, and an attribute that says what they are."""
    bits = values("uint16", shape)
    dataset = group.create_dataset(name, data=np.asarray(bits).view("V2"), **options)
    dataset.attrs["dtype"] = "bfloat16"
    return dataset


FILTERS = {
    "plain": {},
    "gzip": {"compression": "gzip"},
    "gzip9-shuffle": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "lzf": {"compression": "lzf"},
    "lzf-shuffle-fletcher32": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "gzip-shuffle-fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}

# Shape, chunks, how far it can grow.
SHAPES = [
    ((10,), (4,), None),
    ((12,), (12,), None),
    ((50, 30), (16, 7), None),
    ((50, 30), (16, 30), None),
    ((5, 6, 7, 3), (2, 3, 7, 2), None),
    ((40,), (7,), (None,)),
    ((9, 20), (4, 8), (None, 20)),
    ((9, 20), (4, 8), (9, None)),
    ((9, 20), (4, 8), (30, 40)),
    ((9, 20, 3), (4, 8, 3), (None, None, 3)),
    ((2, 3), (64, 64), (None, None)),
    ((0, 3), (4, 3), (None, 3)),
]


def chunked(f):
    """Every filter with every shape, and with every type."""
    for (name, filters), (i, (shape, chunks, limit)) in itertools.product(FILTERS.items(), enumerate(SHAPES)):
        f.create_dataset(f"{name}/shape {i}", data=values("float32", shape), chunks=chunks, maxshape=limit, **filters)
    for name, filters in FILTERS.items():
        for dtype in NUMBERS + BIG_ENDIAN:
            f.create_dataset(f"{name}/{dtype}", data=values(dtype, (7, 11)), chunks=(3, 4), **filters)
        put_bfloat16(f[name], "bfloat16", (7, 11), chunks=(3, 4), **filters)
        f.create_dataset(f"{name}/zeros", data=np.zeros(300_000, "float32"), chunks=(100_000,), **filters)


def indexes(f):
    """Indexes of several levels, blocks and pages."""
    f.create_dataset("many", data=values("int16", (3001,)), chunks=(2,))
    f.create_dataset("many packed", data=values("int16", (3001,)), chunks=(2,), compression="gzip")
    f.create_dataset("growing", data=values("uint8", (5000,)), chunks=(1,), maxshape=(None,))
    f.create_dataset("growing packed", data=values("uint8", (5000,)), chunks=(5,), maxshape=(None,), fletcher32=True)
    f.create_dataset("both", data=values("uint8", (100, 60)), chunks=(1, 1), maxshape=(None, None))
    f.create_dataset("both packed", data=values("uint8", (60, 60)), chunks=(1, 2), maxshape=(None, None), shuffle=True, fletcher32=True)


def sparse(f):
    """What was never written has the fill value."""
    for name, options in FILTERS.items():
        d = f.create_dataset(f"{name}/some", (100, 100), "float32", chunks=(9, 11), fillvalue=7.5, **options)
        d[5, 5:70] = 1
        d[99] = 2
        for dtype, fill in [("int64", -3), ("bool", True), (">f8", 0.1), (">i2", 258), ("uint8", 9), ("float16", 0.5)]:
            f.create_dataset(f"{name}/none {dtype}", (30,), dtype, chunks=(8,), fillvalue=fill, **options)
        for maxshape in [(None, 40), (None, None), (200, 300)]:
            d = f.create_dataset(f"{name}/{maxshape}", (100, 40), "int32", chunks=(7, 10), maxshape=maxshape, fillvalue=-1, **options)
            d[50:60, 3] = 5
    f.create_dataset("large", (1000, 1000), "float32", chunks=(100, 100))
    f.create_dataset("many", (20_000,), "uint8", chunks=(1,))[[3, 1500, 19_999]] = 4
    f.create_dataset("growing", (200_000,), "uint8", chunks=(1,), maxshape=(None,))[[3, 1500, 150_000, 199_999]] = 4
    for dtype, fill in [("float32", 3), (">f4", 3), (">u4", 7), ("bool", True), ("float32", None)]:
        f.create_dataset(f"contiguous {dtype} {fill}", (10, 3), dtype, fillvalue=fill)
    f.create_dataset("scalar", (), ">i4", fillvalue=77)


def resized(f):
    for name, options in [("plain", {}), ("gzip", {"compression": "gzip"})]:
        for maxshape in [(None, 20), (None, None), (100, 100)]:
            d = f.create_dataset(f"{name}/{maxshape}", data=values("float32", (9, 20)), chunks=(4, 8), maxshape=maxshape, **options)
            d.resize((60, 20))
            d[55:] = 3
            d.resize((35, 15))
            d.resize((41, 20))


def direct(f):
    """Chunks that skip filters."""
    d = f.create_dataset("masked", (30,), "int32", chunks=(10,), compression="gzip", shuffle=True, fletcher32=True)
    d[:] = np.arange(30)
    raw = np.arange(10, dtype="int32") * 3
    shuffled = np.frombuffer(raw.tobytes(), "uint8").reshape(10, 4).T.tobytes()
    d.id.write_direct_chunk((10,), raw.tobytes(), filter_mask=7)
    d.id.write_direct_chunk((20,), shuffled, filter_mask=6)


def early(f):
    """Space from the start: chunks one after the other, without an index where the format allows it."""
    for maxshape in [(9, 20), (30, 45)]:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 8))
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((9, 20), maxshape)
        dataset = h5py.h5d.create(f.id, f"early {maxshape}".encode(), h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values("float32", (9, 20)))


def plain_edges(f):
    """Chunks at the edge that are not filtered."""
    for name, maxshape in [("fixed", (9, 20)), ("growing", (h5py.h5s.UNLIMITED, 20)), ("both", (h5py.h5s.UNLIMITED,) * 2)]:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4, 8))
        plist.set_deflate(4)
        assert hdf5.H5Pset_chunk_opts(plist.id, 2, 0, 0) >= 0
        space = h5py.h5s.create_simple((9, 20), maxshape)
        dataset = h5py.h5d.create(f.id, name.encode(), h5py.h5t.IEEE_F32LE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values("float32", (9, 20)))


def committed(f):
    boolean = h5py.h5t.py_create(np.dtype("bool"))
    for name in ["float32", ">f4", ">i8", "int16"]:
        f[f"types/{name}"] = np.dtype(name)
        f.create_dataset(f"of/{name}", data=values(name, (6,)), dtype=f[f"types/{name}"])
        f.create_dataset(f"of/chunked {name}", data=values(name, (60,)), dtype=f[f"types/{name}"], chunks=(7,), compression="gzip")
    boolean.commit(f.id, b"boolean")
    space = h5py.h5s.create_simple((9,))
    dataset = h5py.h5d.create(f.id, b"of bool", h5py.h5t.open(f.id, b"boolean"), space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values("bool", (9,)))
    opaque = h5py.h5t.py_create(np.dtype("V2"))
    opaque.commit(f.id, b"bf16")
    dataset = h5py.h5d.create(f.id, b"of bf16", h5py.h5t.open(f.id, b"bf16"), space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values("uint16", (9,)).view("V2"))
    f["of bf16"].attrs["dtype"] = "bfloat16"


def booleans(f):
    """h5py's boolean over other integers. (h5py takes them for integers.)"""
    for base in ["i1", "u1", "<i2", ">i2", "<u4", ">i4", "<i8", ">u8"]:
        dtype = h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, basetype=base)
        f.create_dataset(f"bools/{base}", data=values("bool", (13,)).astype(base), dtype=dtype)
        f.create_dataset(f"bools/chunked {base}", data=values("bool", (13,)).astype(base), dtype=dtype, chunks=(4,), compression="gzip")
        f.create_dataset(f"bools/unwritten {base}", (5,), dtype=dtype, fillvalue=1)
        other = h5py.enum_dtype({"FALSE": 1, "TRUE": 0}, basetype=base)
        f.create_dataset(f"others/{base}", data=np.zeros(3, base), dtype=other)


def big_endian(f):
    for dtype in BIG_ENDIAN:
        for shape in [(), (1,), (4, 4), (0, 2), (70_000,)]:
            f.create_dataset(f"{dtype}/{len(shape)} {shape}", data=values(dtype, shape))


def put_links(group, names):
    """Many datasets, faster than create_dataset."""
    space = h5py.h5s.create(h5py.h5s.SCALAR)
    for i, name in enumerate(names):
        dataset = h5py.h5d.create(group.id, name.encode(), h5py.h5t.STD_I32LE, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(i, "int32"))


def dense(f):
    """Large groups, and objects with many attributes."""
    for n in [8, 9, 10, 100, 5000 if f.libver[0] == "latest" else 600]:
        put_links(f.create_group(f"links {n}"), [f"number {i}" for i in range(n)])
    # Names that fill more blocks than one block of blocks holds.
    put_links(f.create_group("wide"), [f"{i:03}" * 1000 for i in range(300)])
    ordered = f.create_group("ordered", track_order=True)
    for i in range(60):
        ordered.create_dataset(str(59 - i), data=np.int8(i))
    names = f.create_group("names")
    for i in [1, 10, 255, 256, 4000, 4090, 5000, 16_000]:
        for k in range(3):
            names.create_dataset(f"{k}" * i, data=np.int16(i))
    edited = f.create_group("edited")
    for i in range(300):
        edited.create_dataset(f"{i}", data=np.int16(i))
    for i in range(0, 300, 3):
        del edited[f"{i}"]
    for i in range(40):
        edited.create_dataset(f"another {i}", data=np.int16(i))
    attributes = f.create_group("attributes")
    for i in range(20):
        put_bfloat16(attributes, str(i), (3,))
        for k in range(5 * i):
            attributes[str(i)].attrs[f"attribute {k}"] = "x" * (k * 60)
    for n in [3, 30, 300]:
        group = f.create_group(f"layers/{n}/vars")
        for k in range(n):
            group.attrs[f"attribute {k}"] = k
        group.attrs["name"] = f"the one of {n}"
        group.attrs.create("after", "y" * 5000)


def unread(f):
    """Filters that are not undone, beside what is read."""
    for name, plist in [(n, h5py.h5p.create(h5py.h5p.DATASET_CREATE)) for n in ["scaleoffset", "nbit", "szip"]]:
        plist.set_chunk((16,))
        if name == "scaleoffset":
            plist.set_scaleoffset(h5py.h5z.SO_INT, 0)
        elif name == "szip":
            plist.set_szip(h5py.h5z.SZIP_NN_OPTION_MASK, 8)
        else:
            assert hdf5.H5Pset_nbit(plist.id, 0, 0, 0) >= 0
        dataset = h5py.h5d.create(f.id, name.encode(), h5py.h5t.STD_I32LE, h5py.h5s.create_simple((64,)), plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(64, dtype="int32"))
    f.create_dataset("plain", data=values("float32", (5,)))


def creation(filtered=False, shared=False):
    """Properties of a file whose groups are compressed, or whose messages are shared."""
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    if shared:
        assert hdf5.H5Pset_shared_mesg_nindexes(plist.id, 1, 0, 0) >= 0
        assert hdf5.H5Pset_shared_mesg_index(plist.id, 0, 0x1F, 1) >= 0
    return plist


# A name, and what puts it into a file. Each is written in the formats of several releases.
CASES = {
    "chunked": chunked,
    "indexes": indexes,
    "sparse": sparse,
    "resized": resized,
    "direct": direct,
    "early": early,
    "plain-edges": plain_edges,
    "committed": committed,
    "booleans": booleans,
    "big-endian": big_endian,
    "dense": dense,
}
LIBVERS = {"default": ("earliest", "latest"), "v110": ("v110", "v110"), "latest": ("latest", "latest")}
