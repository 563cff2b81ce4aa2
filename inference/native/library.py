"""C files compiled to libraries, which are kept in the user's cache.

No header but our own declarations of the mathematical functions is needed, and no fast-math: NaN
and infinity mean what they mean in torch. Where glibc has vector versions of the functions
(libmvec), loops over them are vectorised.
"""

import ctypes
import hashlib
import platform
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from ..core.compiled import c_compiler, from_cache
from .functions import FUNCTIONS, HELPERS, LIBRARY, SPECIAL

# Memory is used again for numbers of other types, hence no strict aliasing.
_FLAGS = (
    *("-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
    *("-fopenmp-simd", "-shared", "-fPIC", "-w"),
)


class NoCompiler(Exception):
    """There is no C compiler, or none that works."""


def library(text: str) -> Path:
    """The library of some C functions, compiled where the cache does not have it.

    Raises:
        NoCompiler: there is none, or it fails.
        Refused: the cache is not the user's alone.
    """
    command = c_compiler()
    if command is None:
        raise NoCompiler("there is no C compiler")
    text = "\n".join([_declared(), *_declared_special(text), text])
    key = hashlib.sha256("\n".join([text, *command, _processor()]).encode()).hexdigest()[:24]
    return from_cache(f"graph-{key}.so", partial(_compile, command, text))


def loaded(path: Path) -> ctypes.CDLL:
    """A library, its calls of torch's own products of matrices connected."""
    code = ctypes.CDLL(str(path))
    for name, address in _torch_functions().items():
        ctypes.c_void_p.in_dll(code, name).value = address
    for name, (symbol, _) in SPECIAL.items():
        if hasattr(code, f"scipy_{name}"):
            ctypes.c_void_p.in_dll(code, f"scipy_{name}").value = _scipy_function(symbol)
    return code


def _compile(command: Sequence[str], text: str, path: Path) -> None:
    """Compile some C into a library, for this very processor and with vector functions if it can.

    Raises:
        NoCompiler: the compiler fails.
    """
    why = ""
    try:
        for further in _choices(command):
            why = _error(command, further, text, path)
            if not why:
                return
    except OSError as error:
        why = str(error.strerror)
    raise NoCompiler(f"the C compiler {command[-1]} fails ({why})")


def _error(command: Sequence[str], further: Sequence[str], text: str, path: Path) -> str:
    """What a compiler says against some C; empty where the library is there.

    Raises:
        OSError: the compiler cannot be run, or there is no room.
    """
    file = path.with_suffix(".c")
    file.write_text(text)
    words = [*command, *_FLAGS, str(file), "-o", str(path), *further, "-lm"]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return next((line for line in said if "error" in line), "".join(said[:1])) or "no reason"


def _choices(command: Sequence[str]) -> list[list[str]]:
    """Further flags of the compiler, the fastest first, the last of which every compiler knows."""
    here = ["-march=native"]
    if not _has_vector_functions():
        return [here, []]
    said = subprocess.run([*command, "--version"], capture_output=True, check=False).stdout
    # gcc finds the vector functions by their declaration.
    vectors = ["-fveclib=libmvec"] if b"clang" in said else []
    return [[*here, *vectors, "-lmvec"], here, []]


@cache
def _processor() -> str:
    """What the code of one processor must not be run on: the instructions that it knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("flags", "Features"))]
    return " ".join([platform.machine(), platform.processor(), *known[:1]])


@cache
def _has_vector_functions() -> bool:
    """Whether the C library has vector versions of all functions, which gcc finds by attribute."""
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return platform.machine() == "x86_64" and name == "glibc" and numbers >= (2, 35)


@cache
def _declared() -> str:
    """The mathematical functions, in both types."""
    mark = '__attribute__((simd("notinbranch"), const)) ' if _has_vector_functions() else ""
    lines = ["typedef long long i64;", "typedef unsigned long long u64;"]
    for name, (arguments, vector) in FUNCTIONS.items():
        for suffix, kind in (("", "double"), ("f", "float")):
            given = ", ".join([kind] * arguments)
            lines.append(f"{mark if vector else ''}{kind} {name}{suffix}({given});")
    return "\n".join([*lines, HELPERS])


def _declared_special(text: str) -> Iterator[str]:
    """SciPy's functions that some C calls; each takes an integer that it does not look at."""
    for name, (_, count) in SPECIAL.items():
        if f"{name}(" in text:
            kinds, names = ", ".join(["double"] * count), ", ".join("xy"[:count])
            yield f"double (*scipy_{name})({kinds}, int);"
            yield f"#define {name}({names}) scipy_{name}({names}, 0)"


def _scipy_function(symbol: str) -> int:
    """The address of a function of SciPy's interface to C."""
    from scipy.special import cython_special  # a quarter of a second, and rarely needed

    capsule = cython_special.__pyx_capi__[symbol]
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer(capsule, name(capsule))


@cache
def _torch_functions() -> dict[str, int]:
    """The addresses of functions of torch's own libraries, by name in C."""
    torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    functions = {name: getattr(torch_library, symbol) for name, symbol in LIBRARY.items()}
    return {name: ctypes.cast(f, ctypes.c_void_p).value or 0 for name, f in functions.items()}
