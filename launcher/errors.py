"""The one error tree. Every error a user can cause is a LauncherError and is shown as one message.

Exit status: 0 done; 1 a run failed; 2 the input was wrong; 3 a check that was asked for came out
negative. Programming errors are ordinary Python exceptions and keep their traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """What comes out of a file, with the characters escaped by which it would steer a terminal."""
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


class LauncherError(Exception):
    """What was wrong, where, what was found, what was expected, what to do."""

    exit_status = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        found: str | None = None,
        expected: str | None = None,
        do: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.found = found
        self.expected = expected
        self.do: tuple[str, ...] = (do,) if isinstance(do, str) else tuple(do or ())

    def __str__(self) -> str:
        lines = [self.what]
        for label, value in (
            ("where", self.where),
            ("found", self.found),
            ("expected", self.expected),
        ):
            if value is not None:
                lines.append(f"  {label + ':':<10}{printable(value)}")
        for index, suggestion in enumerate(self.do):
            lines.append(f"  {'to do:' if index == 0 else '':<10}{suggestion}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling: a launcher may carry the error over a process boundary."""
        return (_rebuild, (type(self), self.__dict__.copy()))


def in_one_line(error: BaseException) -> str:
    """An error in one line; a programming error's words (``KeyError('x')``) say nothing without its type."""
    said = next(iter(str(error).splitlines()), "")
    if isinstance(error, LauncherError) or not isinstance(error, Exception):
        return said or type(error).__name__
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _rebuild(cls: type[LauncherError], attributes: dict[str, object]) -> LauncherError:
    error = cls.__new__(cls)
    Exception.__init__(error, attributes["what"])
    error.__dict__.update(attributes)
    return error


class ConfigError(LauncherError):
    """A config value, or a combination of values, that cannot be meant."""


class DataError(LauncherError):
    """Training data that is missing or cannot be read."""


class BranchPointUnavailable(LauncherError):
    """The branch point that was asked for cannot be had."""


class CheckpointError(LauncherError):
    """A checkpoint that is incomplete, damaged, or does not fit what it is loaded into."""


class UnknownRun(LauncherError):
    """A run was named that does not exist, or by a name that fits several."""


class RunsElsewhere(LauncherError):
    """Another process trains the run, and is left to it."""


class UndeclaredDifference(LauncherError):
    """A branch differs from its trunk in something that nobody typed."""

    settle: tuple[str, ...] = ()
    """The overrides that make it as the trunk is."""


class PreflightFailed(LauncherError):
    """One or more findings stop the launch; the table of findings is the message."""


class RunFailed(LauncherError):
    """A run that had started could not go on."""

    exit_status = 1


class OverrideHadNoEffect(RunFailed):
    """A typed value did not reach the live objects."""


class Negative(LauncherError):
    """A check or verdict that was asked for came out negative."""

    exit_status = 3
