"""What each GPU did, launch by launch, and why it was idle."""
