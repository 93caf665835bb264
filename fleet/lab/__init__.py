"""Use case: a fleet of real hosts on this machine, for trying and testing."""
