"""From a config to a branch: resolve the branch point, check it, restore from it."""
