"""Claims against the machine: what was said, the runs that decide it, and the verdict that a rule gives."""
