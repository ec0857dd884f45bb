"""The macOS firewall: pf.conf text for one anchor, and a model of what PF makes of it."""

from engine.firewall.pf.render import ANCHOR, render

__all__ = ["ANCHOR", "render"]
