"""How the processes that train one run find out who they are, and find each other."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from launcher.errors import ConfigError, RunFailed
from launcher.files import read_json_object, write_json

MEETING = "LAUNCHER_RENDEZVOUS"
"""Environment variable: the file by which ranks that were started here find each other."""
LOST = "A process that trains the run with others has ended"
"""What is said of a run one of whose ranks is gone."""
_INTERFACE_ADDRESS = 0x8915
"""``SIOCGIFADDR``, of Linux."""
LIMIT_SECONDS = 300.0
"""How long ranks wait for each other: SLURM may start them minutes apart."""


def word_of_end(meeting: str | Path) -> Path:
    """The file in which who started the ranks says by what one of them was ended."""
    return Path(f"{Path(meeting).parent}-ended")


@dataclass(frozen=True)
class Place:
    """One process among those that train a run together, as its environment tells it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Which of the processes on this machine."""
    local_size: int = 1
    """How many share the cores that this process may use."""
    of_slurm: bool = False
    """Then machines may be several, and a single visible GPU may be this process's own."""
    meeting: str | None = None
    """Name of the file by which they meet; None: torchrun has a store."""
    here: bool = False
    """Whether all are on this machine for certain, and nobody else needs to reach them."""


_TORCHRUN = "TORCHELASTIC_RUN_ID"
"""What torchrun sets beside the customary variables, which others leave in environments as well."""
ALONE = Place()
"""A process that trains a run by itself."""


def place_from(nproc: int, environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place; None if nobody has started the ``nproc`` processes yet.

    Raises:
        ConfigError: somebody has started another number of them.
    """
    if nproc == 1 and _TORCHRUN not in environment:
        return ALONE
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = _of_torchrun(environment)
    elif int(_slurm_tasks(environment)) > 1 and "SLURM_PROCID" in environment:
        found = _of_slurm(environment)
    else:
        return ALONE if nproc == 1 else None
    if found.size != nproc:
        raise ConfigError(
            "The run is to be trained by another number of processes than were started.",
            where="launch.nproc",
            found=f"launch.nproc={nproc}; {found.size} processes were started",
            expected="equal numbers",
            do=f"launch.nproc={found.size}, or start {nproc} process{'es' if nproc > 1 else ''}",
        )
    return found


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        meeting=environment.get(MEETING),
        here=MEETING in environment,
    )


def _of_slurm(environment: Mapping[str, str]) -> Place:
    # A requeued job keeps its id, and its former processes may still be alive on a node that was cut off.
    start = (environment.get(f"SLURM_{name}", "0") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        size=int(_slurm_tasks(environment)),
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        of_slurm=True,
        meeting=f".rendezvous-{'-'.join(start)}.json",
    )


def _slurm_tasks(environment: Mapping[str, str]) -> str:
    return environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"


@contextlib.contextmanager
def met(place: Place, directory: Path) -> Iterator[Store]:
    """The store that all ranks share, once all of them are there.

    Rank 0 listens on a port that the system chooses and publishes it in a file; the others look for the
    file. No name has to be resolvable and no port has to be guessed.

    Args:
        place: this process's.
        directory: where the file is put unless its name is absolute; all ranks must see it.

    Raises:
        RunFailed: some did not come in time.
    """
    if place.meeting is None:
        store, _, _ = next(rendezvous("env://", place.rank, place.size))
        _all_there(store, place)
        yield store
        return
    path = directory / place.meeting
    if place.rank != 0:
        store = _found_store(path, time.monotonic() + LIMIT_SECONDS)
        _all_there(store, place)
        yield store
        return
    listening = socket.create_server(("127.0.0.1" if place.here else "0.0.0.0", 0))
    addresses, port = own_addresses(place.here), listening.getsockname()[1]
    descriptor = listening.detach()  # From here on it is the store's.
    store = TCPStore(addresses[0], port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor)
    made = [one for one in path.parents if not one.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"addresses": addresses, "port": port})
        _all_there(store, place)
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Others may have put something there.
            for one in made:
                one.rmdir()
    yield store


def own_addresses(here: bool = False) -> list[str]:
    """Addresses under which this machine may be reached, the likeliest first; ``here``: from itself."""
    if here:
        return ["127.0.0.1"]
    found: dict[str, None] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Sends nothing: the system only says from which address it would.
        probe.connect(("192.0.2.1", 9))
        found[probe.getsockname()[0]] = None
    with contextlib.suppress(OSError):
        found.update(dict.fromkeys(socket.gethostbyname_ex(socket.gethostname())[2]))
    return [*found] or ["127.0.0.1"]


def choose_interface(here: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Have gloo listen where the other ranks can reach it, unless the user has said where.

    By itself it takes the address of the host's name, which need not be known or may be the loopback's.
    """
    if "GLOO_SOCKET_IFNAME" in environment:
        return
    address = own_addresses(here)[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # It has no address.
                request = struct.pack("256s", name.encode()[:15])
                reply = fcntl.ioctl(probe.fileno(), _INTERFACE_ADDRESS, request)
                if socket.inet_ntoa(reply[20:24]) == address:
                    environment["GLOO_SOCKET_IFNAME"] = name
                    return


def _found_store(path: Path, deadline: float) -> Store:
    """The store that rank 0 published."""
    while time.monotonic() < deadline:
        # A rename is seen late on some network file systems; what is not there yet is looked for again.
        with contextlib.suppress(OSError, ValueError):
            told = read_json_object(path)
            for address in told["addresses"]:
                with contextlib.suppress(OSError):
                    socket.create_connection((address, told["port"]), timeout=2).close()
                    return TCPStore(address, told["port"], wait_for_workers=False)
        time.sleep(0.02)
    raise RunFailed(
        f"Rank 0 did not show up within {LIMIT_SECONDS:.0f} s.",
        where=str(path),
        expected="a file with the address on which rank 0 listens, and a way to it",
        do="see what became of rank 0; all processes of a run need to see paths.outputs",
    )


def _all_there(store: Store, place: Place) -> None:
    store.set(f"here/{place.rank}", "")
    names = [f"here/{rank}" for rank in range(place.size)]
    try:
        store.wait(names, datetime.timedelta(seconds=LIMIT_SECONDS))
        # Rank 0 may take the store away only when nobody waits for it any more.
        store.set(f"met/{place.rank}", "")
        if place.rank == 0:
            store.wait([f"met/{rank}" for rank in range(place.size)], datetime.timedelta(seconds=60))
    except RuntimeError as error:
        raise RunFailed(
            f"Not all processes of the run came together within {LIMIT_SECONDS:.0f} s.",
            found=f"rank {place.rank} of {place.size} was there",
            expected=f"{place.size} processes",
            do="see what became of the others, and give the same command again",
        ) from error
