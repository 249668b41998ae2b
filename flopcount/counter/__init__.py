"""The counter: a running program, op by op."""
