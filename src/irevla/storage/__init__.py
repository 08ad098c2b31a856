"""What must survive a crash: files, checkpoints, journals, metrics."""
