"""Tests of the reference task."""
