"""The training loop and everything it needs: task protocol, optimizer, RNG, precision, signals."""
