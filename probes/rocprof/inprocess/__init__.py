"""What runs inside a server that we start: the hook, and the thread that starts and stops it.

Standard library only (see the package).
"""
