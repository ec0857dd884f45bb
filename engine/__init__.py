"""molehill: a WireGuard tunnel engine that judges every packet and fails closed."""

__version__ = "0.1.0"
