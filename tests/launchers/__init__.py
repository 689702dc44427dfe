"""Tests of where siblings run."""
