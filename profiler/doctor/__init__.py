"""``cputax doctor``: mistakes that cost silently, and what cputax itself may see here."""
