"""What a process of the oracle knows about itself: ledgers, their history, and who may ask."""
