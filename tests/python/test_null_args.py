"""No function of ckpt.h is left out of tests/c/null_args.c, and none of its pointers."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "include/ckpt.h").read_text(), flags=re.S)
TEST = (ROOT / "tests/c/null_args.c").read_text()

CANNOT_FAIL = {"ckpt_should_save", "ckpt_preempted", "ckpt_path", "ckpt_reader_len", "ckpt_reader_groups_len",
               "ckpt_reader_assets_len",
               "ckpt_model_skipped_len"}
THROUGH_A_POINTER = {"ckpt_on_train_batch_end", "ckpt_on_epoch_end"}  # both in one function of the test


def functions():
    """Every function and the pointers that have to be something."""
    for name, parameters in re.findall(r"\b(ckpt_\w+)\(([^()]*)\);", HEADER):
        pointers = re.findall(r"\*(\w+)", parameters)
        yield name, [p for p in pointers if not p.endswith("_or_null") and p != "user"]


@pytest.mark.parametrize("function, pointers", list(functions()))
def test_null(function, pointers):
    assert re.search(rf"\b{function}\b", TEST), f"{function} is not in tests/c/null_args.c"
    if function in CANNOT_FAIL or function.endswith("_free"):
        assert f"{function}(NULL)" in TEST
        return
    failures = TEST if function in THROUGH_A_POINTER else "\n".join(re.findall(rf"FAILS\({function}\(.*", TEST))
    for pointer in pointers:
        assert f'"{pointer}' in failures, f"nothing hands NULL to {function} for {pointer}"
