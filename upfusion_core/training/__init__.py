"""Training: batches, the three stages and their losses, and the one loop that they share."""
