"""Modules of `load-tests/compare`; they use only the standard library."""
