"""What scaling does to recognition."""
