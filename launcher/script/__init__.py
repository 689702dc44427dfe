"""Scripts that keep their own training loop: what they are given, and what is saved and restored for them."""
