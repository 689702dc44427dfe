"""A script's own loop under way: what it begins with, and what happens between two of its steps."""
