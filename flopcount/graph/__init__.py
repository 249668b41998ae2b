"""The graph: a traced program instead of a running one."""
