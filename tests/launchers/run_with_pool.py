"""Runs any Hydra application, unchanged, with ``hydra/launcher=pool`` registered: APPLICATION OVERRIDES..."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from launcher.launchers import pool

pool.register()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
