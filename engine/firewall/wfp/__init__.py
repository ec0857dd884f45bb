"""The Windows firewall: the filter set as data, and a model of how WFP arbitrates."""

from engine.firewall.wfp.filters import FilterSet, filters, persistent_filters, to_json

__all__ = ["FilterSet", "filters", "persistent_filters", "to_json"]
