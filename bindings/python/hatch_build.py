"""Puts the shared library that LIBCKPT_LIBRARY names into the wheel, which is then one of this platform."""
import os
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Library(BuildHookInterface):
    def initialize(self, version, build_data):
        library = os.environ.get("LIBCKPT_LIBRARY")
        if not library:
            raise SystemExit("LIBCKPT_LIBRARY names no libckpt.so to put into the wheel: run `make wheel`")
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        files = build_data["force_include"]
        files[os.path.realpath(library)] = "libckpt/libckpt.so"
        for licence in ("LICENSE-APACHE", "LICENSE-MIT"):
            files[os.path.join(self.root, "../..", licence)] = f"libckpt/{licence}"
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
