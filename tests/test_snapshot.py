"""The copy of the code that jobs run."""

from __future__ import annotations

import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.errors import ConfigError
from launcher.launchers.jobs import snapshot
from launcher.launchers.jobs.snapshot import import_path, take


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("train.py", "conf/config.yaml", "package/module.py", "notes.txt", ".git-no", "data/big.bin"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "ignored").mkdir()
    (root / "ignored" / "cache.py").write_text("")
    (root / ".gitignore").write_text("ignored/\n")
    (root / "run.sh").write_text("")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("package/module.py")
    return root


@pytest.fixture
def repository(project: Path) -> Path:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    subprocess.run(["git", "-C", str(project), "add", "train.py", "package"], check=True)
    return project


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}


def test_a_repository_is_copied_with_what_git_does_not_ignore(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LARGEST_FILE", 20)
    (repository / "data" / "big.bin").write_text("x" * 21)
    (repository / "outputs").mkdir()
    (repository / "outputs" / "run.json").write_text("")
    (repository / "package" / "module.py").write_text("changed\n")
    (repository / "train.py").unlink()
    taken = take(repository / "package", repository / "outputs")
    assert files(taken.directory) == {
        ".gitignore", ".git-no", "conf/config.yaml", "package/module.py", "notes.txt", "run.sh", "link",
    }  # fmt: skip
    assert taken.left_out == ("data/big.bin",)
    assert taken.directory.parent == repository / "outputs" / ".code"
    assert (taken.directory / "package" / "module.py").read_text() == "changed\n"
    assert (taken.directory / "link").is_symlink()
    assert (taken.directory / "run.sh").stat().st_mode & 0o777 == 0o555


def test_a_repository_within_the_repository_is_copied_too(repository: Path, tmp_path: Path) -> None:
    inner = repository / "inner"
    subprocess.run(["git", "init", "-q", str(inner)], check=True)
    (inner / "own.py").write_text("")
    assert "inner/own.py" in files(take(repository, tmp_path / "outputs").directory)


def test_outside_git_python_and_yaml_files_are_copied(project: Path, tmp_path: Path) -> None:
    (project / "venv").mkdir()
    (project / "venv" / "pyvenv.cfg").write_text("")
    (project / "venv" / "library.py").write_text("")
    taken = take(project, tmp_path / "outputs")
    assert files(taken.directory) == {
        "train.py", "conf/config.yaml", "package/module.py", "ignored/cache.py",
    }  # fmt: skip


def test_the_same_code_has_one_copy_and_other_code_another(repository: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    first = take(repository, outputs)
    assert take(repository, outputs) == first
    (repository / "run.sh").chmod(0o644)
    second = take(repository, outputs)
    assert second.directory != first.directory
    (repository / "train.py").rename(repository / "other.py")
    assert take(repository, outputs).directory not in (first.directory, second.directory)
    assert len(list((outputs / ".code").iterdir())) == 3


def test_two_launches_at_once_share_one_copy(repository: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: take(repository, tmp_path / "outputs"), range(16)))
    assert len(set(taken)) == 1
    assert [path.name for path in (tmp_path / "outputs" / ".code").iterdir()] == [taken[0].directory.name]
    assert "train.py" in files(taken[0].directory)


def test_far_too_much_is_refused(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_FILES", 3)
    with pytest.raises(ConfigError) as refused:
        take(repository, tmp_path / "outputs")
    assert "launch.snapshot=false" in str(refused.value)
    assert not (tmp_path / "outputs").exists()


def test_what_is_imported_comes_from_the_copy(repository: Path, tmp_path: Path) -> None:
    taken = take(repository, tmp_path / "outputs")
    other = tmp_path / "other"
    other.mkdir()
    installed = sysconfig.get_path("purelib")
    entries = [str(repository / "package"), str(other), str(repository / "gone"), installed]
    path = import_path(taken, entries)
    assert path == [str(taken.directory / "package"), str(other), str(taken.directory)]
    assert import_path(None, entries) == [str(repository / "package"), str(other)]
