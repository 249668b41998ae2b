"""The report: running totals, the value made of them, and what people see of it."""
