"""Connections to hosts: Fabric over Paramiko, one per host per run."""
