"""metagym."""
