"""Playbook files into typed plays and tasks; templating."""
