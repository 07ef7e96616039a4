"""Workloads and networks of other simulators: Chakra traces, ASTRA-sim's networks and systems, SimAI's workloads."""
