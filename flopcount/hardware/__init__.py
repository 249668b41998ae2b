"""Devices as data, and the least time that work takes on them."""
