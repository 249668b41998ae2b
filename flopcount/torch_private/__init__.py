"""The private torch names that flopcount relies on. No other part of the package uses any.

``tests/torch_private`` tests, name by name, what each one promises.
"""
