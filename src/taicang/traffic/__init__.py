"""Request traffic: traces that users have, and generators."""
