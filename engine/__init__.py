"""molehill: a WireGuard tunnel engine that judges every packet and fails closed."""
