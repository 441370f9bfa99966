"""The training ring: a skorch net with two networks, and callbacks that carry out CLID-MU."""
