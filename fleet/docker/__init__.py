"""The hosts' Docker Engines, reached through the SSH connection."""
