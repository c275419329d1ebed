"""The package libckpt, here and in the processes that tests start, is the one of this repository, over the library under test."""
import os
import sys
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[2] / "bindings/python")
sys.path.insert(0, PACKAGE)
os.environ["PYTHONPATH"] = os.pathsep.join([PACKAGE, *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["LIBCKPT_LIBRARY"] = os.environ.get("CKPT_TEST_LIBRARY", "")
