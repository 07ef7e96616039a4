"""The native part, compiled once: which compiler, which PyTorch, where it lies; and what ``taicang doctor`` tells."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from taicang.errors import InvalidInput
from taicang.output import scratch

NATIVE = Path(__file__).parent / "native"
OLDEST = (2, 9)
INSTALL = "install it with: pip install 'taicang[torch]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """The two libraries: one that is preloaded, one that PyTorch loads."""

    names: Path
    device: Path


def torch_place() -> tuple[str, Path]:
    """Version and folder of the PyTorch of this Python, without importing it; ``InvalidInput`` if none will do."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise InvalidInput(f"PyTorch is not installed; {INSTALL}", where="run")
    version = metadata.version("torch")
    numbers = version.split("+", maxsplit=1)[0].split(".")
    if tuple(int(each) for each in numbers[:2]) < OLDEST:
        raise InvalidInput(f"PyTorch {version} is too old, it takes 2.9 or newer; {INSTALL}", where="run")
    return version, Path(next(iter(spec.submodule_search_locations)))


def compiler() -> str:
    """The C++ compiler; ``InvalidInput`` without one."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise InvalidInput("no C++ compiler; install g++ (build-essential) or set CXX", where="run")


def cache() -> Path:
    """Where what is compiled lies: TAICANG_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TAICANG_CACHE") or Path(home) / "taicang")


def native() -> Native:
    """Both libraries for the PyTorch of this Python, compiled if they are not there yet (about 20 seconds, once)."""
    version, place = torch_place()
    sources = b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()) if path.is_file())
    digest = hashlib.sha256(sources + version.encode() + str(place).encode() + sys.version.encode()).hexdigest()[:16]
    folder = cache() / f"virtual-{version}-{digest}"
    made = Native(names=folder / "names.so", device=folder / "device.so")
    if not made.device.is_file():
        _compile(folder, place)
    return made


def _compile(folder: Path, place: Path) -> None:
    tool, include, libraries = compiler(), place / "include", place / "lib"
    folder.mkdir(parents=True, exist_ok=True)
    common = [tool, "-std=c++20", "-O1", "-shared", "-fPIC"]
    with scratch(folder) as work:
        for name, more in (
            ("names", ["-ldl"]),
            ("device", [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{libraries}", "-lc10", "-ltorch_cpu",
                        f"-Wl,-rpath,{libraries}"]),
        ):  # fmt: skip
            out = work / f"{name}.so"
            done = subprocess.run(
                [*common, str(NATIVE / f"{name}.cpp"), "-o", str(out), *more],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
                raise InvalidInput(f"{tool} cannot compile the virtual device: {said}", where="run")
            out.replace(folder / f"{name}.so")  # two that compile at once leave the same file
