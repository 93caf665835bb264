"""One file per module: typed arguments, probes, a pure plan."""
