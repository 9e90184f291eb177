"""Modules of `load-tests/profile`; they use only the standard library."""
