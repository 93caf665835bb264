"""Blue-green upgrades by draining: plan, journal, execute, gate, roll back, resume."""
