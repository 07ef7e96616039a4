"""Results as one page to look at: figures are made here, the page only draws. No network, no other host."""
