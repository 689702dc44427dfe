"""A stand-in for W&B's server on 127.0.0.1, for the real client (0.31.0).

It stores what the client sends about runs and artifacts (GraphQL, file streams, files) and gives it back to
the client and to its public Api; it can be told to misbehave. Modelled is what the client asks for: a field
that nobody wrote down is answered with an error that names it, never with a guess.

Not modelled: accounts, rights and quotas (every key is let in, what names no entity is ``ENTITY``'s), rate
limits, parquet history and sampling (the Api is given every row), sweeps, reports, registries, alerts, pages
for people; of artifacts, links between collections, deletion, time to live, uploads in parts (of more than
2 GB), and addresses that expire. What a file stream's offsets, a fork and a rewind mean, and which alias
moves when, is taken from what the client sends; only the tests with ``--real-wandb`` see the true service.
"""
