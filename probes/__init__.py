"""The observing wing: each probe watches one live source and emits batches to the recorder."""
