"""Runs of the tiny task whose disk fails where one says: ``failing_disk.c`` beneath a server of its own."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from tests.tiny_process import PRELOADED, ROOT, WIDE, Ended

SOURCE = Path(__file__).with_suffix(".c")


@dataclass(frozen=True)
class Failing:
    """Calls that fail; see the head of tests/failing_disk.c."""

    call: str
    path: str
    """A part of the path; ``*`` matches anything."""
    errno: str = "EIO"
    first: int = 1
    times: int = 0

    def environment(self) -> dict[str, str]:
        return {
            "FAILING_CALL": self.call,
            "FAILING_PATH": f"*{self.path}*",
            "FAILING_ERRNO": str(getattr(errno, self.errno)),
            "FAILING_FROM": str(self.first),
            "FAILING_TIMES": str(self.times),
        }

    @property
    def message(self) -> str:
        """What the system calls it."""
        return os.strerror(getattr(errno, self.errno))


def compiler() -> str | None:
    """A C compiler, where there is one that can make libraries for LD_PRELOAD."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


class FailingDisk:
    """One new interpreter in which the calls can be made to fail; it forks a process for each launch."""

    def __init__(self, place: Path) -> None:
        program, library = compiler(), place / "failing_disk.so"
        assert program is not None
        subprocess.run([program, "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.failing_disk"],
            cwd=ROOT, env={**os.environ, "LD_PRELOAD": str(library)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> FailingDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def launch(
        self,
        outputs: Path,
        *overrides: str,
        failing: Failing | None = None,
        prepare: Sequence[str] = (),
        module: str = "tests.tiny_train",
    ) -> Ended:
        """``python -m tests.tiny_train OVERRIDES`` to its end.

        Args:
            outputs: directory of all runs.
            overrides: what is typed.
            failing: the calls that fail in that process, and in those that it starts.
            prepare: statements that are executed there before.
            module: what is run.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        place = f"paths.outputs={outputs}" if module == "tests.tiny_train" else f"--outputs={outputs}"
        with tempfile.TemporaryDirectory() as streams:
            order = _Order(
                module, [*overrides, place], {**WIDE, **(failing.environment() if failing else {})},
                list(prepare), streams,
            )  # fmt: skip
            print(json.dumps(asdict(order)), file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
            assert answer, "the server of the failing disk is gone"
            out, err = (Path(streams, name).read_text() for name in ("out", "err"))
        return Ended(int(answer), out, err)


@dataclass(frozen=True)
class _Order:
    module: str
    arguments: list[str]
    environment: dict[str, str]
    prepare: list[str]
    streams: str

    def obey(self) -> NoReturn:
        """In a forked process: be the program."""
        from tests.tiny_process import _child

        status = 1
        os.close(0)
        try:
            prepared = [lambda one=one: exec(one, {}) for one in self.prepare]  # type: ignore[misc]
            _child(self.module, self.arguments, self.environment, prepared, self.streams)
            status = 0
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        order = _Order(**json.loads(line))
        if (pid := os.fork()) == 0:
            order.obey()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(128 - status if status < 0 else status, flush=True)


if __name__ == "__main__":
    _serve()
