"""The paper: CLID, the weighting nets, the hypergradient, and Algorithm 1 as printed."""
