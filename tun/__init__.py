"""TUN devices: Linux, in-memory pair, handed-in fd, and the pcap and fault wrappers."""

from tun.device import Device, TunError
from tun.fault import FaultPlan, FaultRelay, FaultTun
from tun.fd import FdTun
from tun.linux import LinuxTun
from tun.pair import pair
from tun.pcap import PcapTun

__all__ = ["Device", "FaultPlan", "FaultRelay", "FaultTun", "FdTun", "LinuxTun", "PcapTun", "TunError", "pair"]
