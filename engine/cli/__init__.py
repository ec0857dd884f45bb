"""The `molehill` command."""
