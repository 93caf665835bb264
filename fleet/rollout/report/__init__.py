"""What is told of a rollout: its timeline, in words, as a document, and as a page."""
