"""Search: every plan of a stated space priced, the best kept and explained."""
