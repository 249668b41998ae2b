"""Recordings of one training step on a CPU, by the versions of torch that flopcount is tested with.

    python -m tests.trace.data

writes that of the torch that is installed.
"""
