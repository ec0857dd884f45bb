"""WireGuard, sans-IO: no socket, no clock, no randomness of its own."""
