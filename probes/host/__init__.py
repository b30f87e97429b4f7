"""The machine under the target: what it is made of, and its counters, all below a movable root."""
