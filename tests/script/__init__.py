"""Scripts that keep their own loop."""
