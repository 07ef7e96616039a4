"""A system that serves in its own time: real requests in, tokens out when the machine would have made them."""
