"""Training: steps, pipelines, memory, searches and runs."""
