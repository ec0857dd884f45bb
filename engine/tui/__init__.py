"""`molehill tui`: one screen on the daemon's management socket. It draws, asks and tells; it decides nothing (UI-1)."""
