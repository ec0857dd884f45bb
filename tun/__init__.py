"""TUN devices: Linux, in-memory pair, handed-in fd, and the pcap and fault wrappers."""
