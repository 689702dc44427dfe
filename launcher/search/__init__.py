"""A search for the best override: Optuna's samplers and pruners over siblings; Optuna is only here."""
