"""What predicts masks: mix blocks, their losses, the teacher, and trained blocks as files."""
