"""The glue: datapath, WireGuard device, timers and UAPI socket on one event loop."""
