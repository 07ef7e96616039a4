"""What a compute centre costs: ranges in, bands out, per card-hour, token and training run."""
