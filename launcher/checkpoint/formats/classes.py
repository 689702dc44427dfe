"""Classes in a checkpoint that are neither tensors nor plain values: which may be allowed, and how."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from launcher.errors import CheckpointError

_NEVER = frozenset(
    {
        "os", "posix", "nt", "sys", "subprocess", "builtins", "importlib", "shutil", "socket", "runpy",
        "pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "ctypes", "cffi",
        "codeop", "pty", "pdb", "bdb", "timeit", "cProfile", "multiprocessing", "threading", "asyncio",
        "webbrowser", "urllib", "http", "ftplib", "smtplib", "pip", "ensurepip", "pkgutil", "zipimport",
        "operator", "distutils", "setuptools",
        "torch.load", "torch.serialization.load", "torch.storage._load_from_bytes", "torch.hub", "torch.jit",
        "torch.package", "torch.multiprocessing", "torch.utils.cpp_extension", "torch.utils.model_zoo",
        "torch.distributed.rpc", "torch.distributed.elastic",
        "numpy.load", "numpy.lib", "numpy.f2py", "numpy.testing", "numpy.distutils",
        "pandas.read_pickle", "pandas.io",
    }
)  # fmt: skip
"""Modules and functions that no checkpoint needs and that attacks do: they run, load or fetch code."""


def may_not(name: str) -> bool:
    """Whether no setting allows this class or function."""
    parts = name.split(".")
    return any(".".join(parts[: count + 1]) in _NEVER for count in range(len(parts)))


def refused_classes(path: Path, names: Collection[str]) -> CheckpointError:
    """The error that names them, and the setting that allows them where there is one."""
    never = sorted(name for name in names if may_not(name))
    return CheckpointError(
        "The checkpoint holds classes that are not tensors or plain values. Nothing in it was executed.",
        where=str(path),
        found=", ".join(sorted(names)),
        expected="a file that torch.load(..., weights_only=True) reads",
        do=(
            f"do not load it: no checkpoint needs {', '.join(never)}"
            if never
            else f"if you know who wrote it: branch.allow_globals=[{','.join(sorted(names))}]"
        ),
    )
