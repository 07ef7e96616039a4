"""Below the waist: what an operator costs on a machine."""
