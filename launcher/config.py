"""Every knob of the launcher: meaning, unit, default. YAML under ``conf/`` holds values.

The nodes ``model``, ``data``, ``loss``, ``curriculum``, ``optimizer`` and ``scheduler`` belong to
whoever is named by their ``_target_`` or by ``task._target_``: here they are plain mappings, typed by
the schemas that their YAML files pull in. In each of them two keys never change what is computed:
``label`` (the node's part of a run's name) and ``facts`` (metadata for the trackers).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launcher.errors import ConfigError
from launcher.validation import validate

OWN_LOOP = "launcher.script.loop.OwnLoop"
"""``task._target_`` of a script that has its own loop."""


@dataclass
class BranchConfig:
    """Where a run starts, and what it takes over from there. Nothing set: a trunk."""

    from_step: int | None = None
    """Step of the trunk to start from, in steps. Alone, it means the one run that has a checkpoint there."""
    from_run: str | None = None
    """The trunk: a run's id, its directory, or an unambiguous prefix of its id."""
    from_checkpoint: str | None = None
    """A checkpoint file, a directory that holds checkpoints, or where they lie elsewhere:
    ``wandb://entity/project/name:version``, ``mlflow://run_id/path``, ``https://``, ``s3://``, ..."""
    name: str | None = None
    """Name of the branch point in the group's name; default: the checkpoint's own name."""
    restore: str = "full"
    """``full``: model, optimizer, scheduler, data position, RNG, step; ``weights``: the model only."""
    reset: list[str] = field(default_factory=list)
    """Parts of the full state that start anew: any of ``optimizer scheduler data rng step``."""
    include: list[str] = field(default_factory=list)
    """Patterns (``*``, ``?``) of parameter names to restore; the rest is new. Needs ``restore=weights``."""
    exclude: list[str] = field(default_factory=list)
    """Parameter-name patterns not to restore; they are initialised. Needs ``restore=weights``."""
    rename: dict[str, str] = field(default_factory=dict)
    """Name prefixes in the checkpoint mapped to prefixes in the model."""
    step_mode: str = "continue"
    """``continue``: 15000 → 15001; ``reset``: numbered from 0, with ``absolute_step`` logged beside it."""
    steps: int | None = None
    """How many steps more, in steps; default: up to the trunk's end, or its schedule's."""
    schedule: str = "keep"
    """``keep`` the trunk's learning-rate horizon, or ``restart`` the schedule over the branch's steps."""
    on_unavailable: str = "error"
    """``error``: no branch point, no run; ``scratch``: train from scratch, outside the branch's group."""
    mirrors: list[str] = field(default_factory=list)
    """Further places to try, in order, each written like ``from_checkpoint``."""
    require: str = "exact"
    """What a foreign checkpoint must have: all that makes a control ``exact``; ``state``: model, optimizer,
    step; or ``weights``. What it lacks beyond that starts anew, as does a script's data without a state."""
    allow_globals: list[str] = field(default_factory=list)
    """Classes (dotted names) that a foreign checkpoint may hold besides tensors and plain values."""
    sha256: str | None = None
    """Content digest that the checkpoint must have: 64 hex digits, as ``launcher pin`` writes them."""
    compare_to: str | None = None
    """Run id to compare with; default: the parent."""
    notes: str | None = None
    """Free text for the run record and the trackers."""
    tags: list[str] = field(default_factory=list)
    """Further tags for the trackers."""

    @property
    def asked(self) -> bool:
        """Whether any branch point is named at all."""
        named = (self.from_step, self.from_run, self.from_checkpoint)
        return any(value is not None for value in named) or bool(self.mirrors)


@dataclass
class TrainingConfig:
    """The length of a run and what happens along it."""

    steps: int = 16_500
    """Last step of a trunk, in optimizer steps. A branch ends where its trunk did; see ``branch.steps``."""
    gradient_clip: float | None = 1.0
    """Largest global L2 norm of the gradient; ``null``: no clipping."""
    log_every: int = 50
    """Steps between two lines in metrics.jsonl."""
    validate_every: int = 500
    """Steps between two evaluations on held-out data; 0: never."""


@dataclass
class CheckpointConfig:
    """When a checkpoint is written and how long it is kept.

    A checkpoint that some run branched from, or that was pinned, is never removed.
    """

    every: int = 1_500
    """Steps between two checkpoints; the last step always has one."""
    keep_last: int | None = None
    """How many of the newest checkpoints stay; ``null``: all."""
    keep_every: int | None = None
    """Checkpoints at multiples of this many steps stay as well; ``null``: none beyond ``keep_last``."""
    best_metric: str | None = None
    """Metric (``val/token_accuracy``) by which the best checkpoint so far also stays; ``null``: none."""
    best_mode: str = "max"
    """``max`` or ``min``: which direction of ``best_metric`` is better."""
    artifact: str = "none"
    """Which become artifacts in W&B: ``none``, ``last`` (at the run's end), ``best`` (each that is best so
    far), ``all``, or ``pinned`` (at the run's end)."""
    artifact_by: str = "copy"
    """``copy``: uploaded; ``reference``: W&B is told the path, on a file system that others see as well."""


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: str = "auto"
    """``auto``: online with an API key, offline without; or ``online``, ``offline``, ``disabled``."""
    fork: bool = False
    """Begin a branch with W&B's own ``fork_from``, so that the trunk's history shows in front of it."""


@dataclass
class TensorboardConfig:
    """TensorBoard's event files, in the run's directory."""

    flush_seconds: float = 5.0
    """Lines that came within so many seconds after a write wait for the next one, in memory."""


@dataclass
class MlflowConfig:
    """MLflow: a local database, or a tracking server."""

    uri: str | None = None
    """Tracking URI (``http://host:5000``, ``sqlite:///file.db``); default: ``MLFLOW_TRACKING_URI``, then the
    database ``store``."""
    store: str = "multirun_outputs/mlflow.db"
    """SQLite file that is used without a URI. Small artifacts lie beside it, in ``mlflow-artifacts``."""
    flush_seconds: float = 5.0
    """Lines that came within so many seconds after a request wait for the next one, in memory."""


@dataclass
class TrackioConfig:
    """Trackio's local database. Its place is Trackio's own: ``TRACKIO_DIR``."""

    flush_seconds: float = 5.0
    """Lines that came within so many seconds after a write wait for the next one, in memory."""


@dataclass
class TrackerConfig:
    """Trackers beside metrics.jsonl, which is always on. One node each; absent: not used.

    Several at once: ``tracker=[wandb,tensorboard]``.
    """

    wandb: WandbConfig | None = None
    tensorboard: TensorboardConfig | None = None
    mlflow: MlflowConfig | None = None
    trackio: TrackioConfig | None = None


@dataclass
class TrackingConfig:
    """What is told to every tracker. Environment variables of the tracker win where these are unset."""

    project: str | None = None
    """Project of the tracker; default: ``WANDB_PROJECT``, then ``checkpoint-branching``."""
    entity: str | None = None
    """Account or team; default: ``WANDB_ENTITY``, then the tracker's own default."""
    group: str | None = None
    """Group of the siblings; default: ``WANDB_RUN_GROUP``, then the checkpoint's name."""
    tags: list[str] = field(default_factory=list)
    """Tags beside those that the factors give."""


@dataclass
class FanoutConfig:
    """How ``-m`` launches siblings."""

    if_exists: str = "resume"
    """What becomes of a sibling that is there already. ``resume``: finished ones are skipped, others go on;
    ``rerun``: it runs once more, in a directory of its own; ``error``: nothing is launched."""
    skip_bad: bool = False
    """Launch the other siblings although the checks stop some."""
    zip: list[str] = field(default_factory=list)
    """Keys whose lists of values are walked together instead of each with each."""
    allow: list[str] = field(default_factory=list)
    """Differences between siblings that nobody declared and that do not stop the launch: any of ``code
    libraries device threads``. They are recorded."""
    complete: bool = False
    """Launch also the siblings that tell apart factors which the others change only at once."""
    control: bool = False
    """Launch the control as well, first: the sibling without any of the swept overrides, or of those that
    change what is computed where none is swept. Twice where its trunk ends at the branch point."""
    canary: bool = False
    """The control takes some steps first, saves, loads again and goes on; the others start if it could."""
    repeats: int = 1
    """Streams of data order and random numbers that each sibling is run with. Stream 0 is the trunk's own
    continuation; streams 1 and up are the same for all siblings, so that they are compared in pairs."""
    max_parallel: int | None = None
    """Siblings that train at the same time; ``null``: as many as the launcher has room for."""
    stop_on_failure: bool = False
    """Start no further sibling once one has failed; those that run go on."""
    dry_run: bool = False
    """Check everything and show what would be launched, and launch nothing."""
    point: str | None = None
    """Set by the sweeper: the branch point as PATH@SHA256, the same for all siblings."""
    source: str | None = None
    """Set by the sweeper: where that was fetched from, with a version instead of ``latest``."""
    unavailable: str | None = None
    """Set by the sweeper: why there is no branch point, of siblings from scratch."""
    repeat: int = 1
    """Set by the sweeper: which one of several runs of the same signature this is."""
    id: str | None = None
    """Set by the sweeper: the fan-out that the sibling belongs to."""
    code: str | None = None
    """Set by the sweeper: the code that was launched, as git names it."""
    looks: list[int] = field(default_factory=list)
    """Set by the sweeper: steps since the branch point after which a digest of the weights is recorded."""
    trial: str | None = None
    """Set by the sweeper: the trial of a search that the run is, as JOURNAL@NUMBER; see docs/search.md."""
    until: int | None = None
    """Set by the sweeper: the run is the canary and stops after so many steps."""
    signature: str | None = None
    """Set by the sweeper: the signature that was checked; a run with another one does not start."""


@dataclass
class LaunchConfig:
    """The processes of one run."""

    nproc: int = 1
    """Processes that train one run together (DDP ranks). Exactness holds at an equal number. On SLURM it is
    ``hydra.launcher.nodes`` times ``hydra.launcher.tasks_per_node``."""
    shard: bool = False
    """Divide parameters, gradients and optimizer state among them (FSDP2): each has, and saves, its rows."""
    snapshot: bool = True
    """On SLURM: run a copy of the code as it was at submission, whatever is edited afterwards."""


@dataclass
class PathsConfig:
    """Where things lie."""

    outputs: str = "multirun_outputs"
    """Directory of all runs, relative to the working directory."""
    cache: str | None = None
    """Directory of what was fetched from elsewhere, once for all runs; default: ``.cache`` in ``outputs``."""


@dataclass
class TaskConfig:
    """What is trained."""

    _target_: str = MISSING
    """Import path of a class that implements :class:`launcher.training.task.Task`."""
    main: str | None = None
    """Set by ``launcher.main``: the script's function, as MODULE.FUNCTION."""


@dataclass
class Config:
    """One run, whole."""

    task: TaskConfig = field(default_factory=TaskConfig)
    model: Any = field(default_factory=dict)
    """The task's model."""
    data: Any = field(default_factory=dict)
    """The task's data."""
    loss: Any = field(default_factory=dict)
    """The task's loss."""
    curriculum: Any = field(default_factory=dict)
    """What the task changes over its steps."""
    optimizer: Any = field(default_factory=dict)
    """``_target_``: a torch optimizer; every other key is an argument of it."""
    scheduler: Any = field(default_factory=dict)
    """``_target_``: a factory of learning-rate factors by step; every other key is an argument of it."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    branch: BranchConfig = field(default_factory=BranchConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    fanout: FanoutConfig = field(default_factory=FanoutConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    seed: int = 0
    """Seed of initialisation, data order and dropout; 0 to 2**32 - 1."""
    device: str = "auto"
    """``auto`` (CUDA where there is one), ``cpu`` or ``cuda``."""
    precision: str = "fp32"
    """``fp32``, or the forward pass under autocast in ``bf16`` or ``fp16`` (with a gradient scaler)."""
    deterministic: bool = True
    """Only algorithms that give the same bits each time; a PyTorch operation without one is an error."""
    threads: int | None = None
    """CPU threads of PyTorch; ``null``: PyTorch's own choice. Exactness holds at an equal number."""
    own: dict[str, Any] = field(default_factory=dict)
    """Top-level keys of a script with a loop of its own, as they stand beside the launcher's."""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Config:
        """A validated config from plain values: a composed config, or a run's recorded one.

        Raises:
            ConfigError: a key that does not exist, a value of the wrong type or outside its range.
        """
        task = plain.get("task")
        known = dict(plain)
        # Only a script's own loop has keys that nobody here knows.
        free = isinstance(task, Mapping) and task.get("_target_") == OWN_LOOP
        own = {key: known.pop(key) for key in plain if key not in LAUNCHERS} if free else {}
        try:
            merged = OmegaConf.merge(typed_schema(), OmegaConf.create(known))
            config = OmegaConf.to_object(merged)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            raise ConfigError(
                f"The config is not valid: {str(error).splitlines()[0]}", where=key or None
            ) from error
        assert isinstance(config, cls)
        config.own = own
        validate(config)
        return config

    def node(self, name: str) -> Any:
        """A top-level node: the launcher's or the script's own; None where there is none."""
        return getattr(self, name) if name in LAUNCHERS else self.own.get(name)


LAUNCHERS = frozenset(one.name for one in fields(Config)) - {"own"}
"""The launcher's own top-level keys."""


@functools.cache
def typed_schema() -> DictConfig:
    """The schema of a whole config; whoever merges into it gets a copy."""
    schema: DictConfig = OmegaConf.structured(Config)
    del schema._content["own"]  # type: ignore[union-attr]
    return schema
