"""The extension module; everything else about the package is in pyproject.toml.

Switches, read from the environment (a switch is on when it is set and neither empty nor 0):

PYLOOP_DEBUG       no optimisation, full debug information, assertions compiled in
PYLOOP_SANITIZE    a list for -fsanitize=, such as "address,undefined"; assertions compiled in
PYLOOP_COVERAGE    instrumented for gcov
PYLOOP_WERROR      the warnings that the project keeps at zero, as errors; for CI, since the
                   warnings of a compiler that does not exist yet must not break users' builds
"""

import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wshadow",
    "-Wvla",
    "-Wundef",
    "-Werror",
]


def switch(name: str) -> str:
    value = os.environ.get(name, "")
    return "" if value == "0" else value


def compiler_flags() -> tuple[list[str], list[str]]:
    """The arguments for the compiler and for the linker."""
    compile_args = ["-std=c11", "-D_GNU_SOURCE", "-fvisibility=hidden"]
    link_args: list[str] = []
    sanitize = switch("PYLOOP_SANITIZE")
    if sanitize:
        instrument = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
        compile_args += [*instrument, "-fno-omit-frame-pointer"]
        link_args += instrument
    if switch("PYLOOP_COVERAGE"):
        compile_args.append("--coverage")
        link_args.append("--coverage")
    if switch("PYLOOP_DEBUG") or switch("PYLOOP_COVERAGE"):
        compile_args += ["-O0", "-g3", "-UNDEBUG"]
    elif sanitize:
        compile_args += ["-O1", "-g3", "-UNDEBUG"]
    else:
        # The interpreter's own flags usually ask for -g, which makes the file several times
        # larger; the symbol table that profilers read stays.
        compile_args += ["-O3", "-g0", "-DNDEBUG"]
    if switch("PYLOOP_WERROR"):
        compile_args += WARNINGS
    return compile_args, link_args


class BuildExt(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        # An extension that is newer than its sources may have been made with other switches.
        self.force = True


compile_args, link_args = compiler_flags()
folders = ("core", "sched", "aio")

setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "pyloop._core",
            sources=[
                *(source for folder in folders for source in sorted(glob(f"csrc/{folder}/*.c"))),
                "csrc/eventloop.c",
                "csrc/module.c",
            ],
            depends=sorted(
                glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.def", recursive=True)
            ),
            include_dirs=["csrc"],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ],
)
