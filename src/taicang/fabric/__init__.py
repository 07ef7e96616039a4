"""The bus, link by link: topologies of a machine's planes, routes, max-min fair flows, collectives and faults."""
