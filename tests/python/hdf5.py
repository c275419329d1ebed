"""What an HDF5 file of the weights holds, as h5py reads it."""
import h5py
import ml_dtypes
import numpy as np

OWN_GROUP = "libckpt"


def contents(file):
    """{path: array} and {group: name} of a path or a file object; our own group is left out."""
    tensors, names = {}, {}

    def visit(path, node):
        if path.split("/")[0] == OWN_GROUP:
            return
        if isinstance(node, h5py.Dataset):
            array = np.asarray(node[()], order="C")
            bfloat16 = node.attrs.get("dtype") == "bfloat16"
            tensors[path] = array.view(ml_dtypes.bfloat16).reshape(node.shape) if bfloat16 else array
        elif "name" in node.attrs:
            assert path == "vars" or path.endswith("/vars")
            names[path.removesuffix("vars").removesuffix("/")] = node.attrs["name"]
    with h5py.File(file, "r") as f:
        f.visititems(visit)
    return tensors, names


def assert_same(a, b):
    """Two dictionaries of arrays are the same in every bit."""
    assert sorted(a) == sorted(b)
    for path in a:
        assert (a[path].dtype, a[path].shape) == (b[path].dtype, b[path].shape), path
        assert a[path].tobytes() == b[path].tobytes(), path
