"""Ansible's YAML inventory into typed hosts."""
