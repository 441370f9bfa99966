"""The paper's mathematics on torch alone: CLID, weighting nets, hypergradient, backbone."""
