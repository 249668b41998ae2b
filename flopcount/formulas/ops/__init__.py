"""What each op costs: one family of ops a file. Every file here is imported by the package."""
