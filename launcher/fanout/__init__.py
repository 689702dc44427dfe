"""The fan-out: siblings checked together, written down, launched, and told about at the end."""
