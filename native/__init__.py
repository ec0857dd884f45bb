"""The cffi module and its thin checked wrappers."""
