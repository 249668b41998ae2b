"""The private torch names that flopcount stands on; nothing else in the package uses any.

``tests/torch_private`` says, name by name, what each one promises.
"""
