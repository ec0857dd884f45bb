"""The machine: routes, rules, addresses, capabilities."""
