"""The VPN-service model: `Builder`, `establish()`, profiles."""
