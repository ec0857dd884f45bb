"""The daemon: settings, tunnels and relays on disk, the management interface, the service's life."""
