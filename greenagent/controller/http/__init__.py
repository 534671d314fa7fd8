"""HTTP: the endpoints of agents and of people."""
