"""The Linux firewall: one JSON document, one transaction, one table of our own (`inet molehill`)."""

from engine.firewall.nftables.render import FAMILY, TABLE, render, reset

__all__ = ["FAMILY", "TABLE", "render", "reset"]
