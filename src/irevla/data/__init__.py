"""Episodes on disk and in memory, and how batches are drawn from them."""
