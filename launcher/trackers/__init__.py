"""Where metrics go: the local file always, others beside it."""
