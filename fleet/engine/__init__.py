"""Observe, plan, apply, verify: one run over many hosts."""
