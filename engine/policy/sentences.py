"""Each claim of the security policy as one sentence in our own words, by id.

`molehill explain` and docs/security.md print these. docs/policy.md says which rule keeps a claim; a test holds the
two together, so that every id there has a sentence here and the other way round.
"""

SENTENCES: dict[str, str] = {
    "P-0": "Whatever no rule permits is blocked.",
    # Permitted in every state
    "LO-1": "Everything on a loopback interface is permitted, in both directions.",
    "DHCP4-1": "A DHCPv4 client may ask: UDP from port 68 to 255.255.255.255 port 67.",
    "DHCP4-2": "A DHCPv4 server's answer may come in: UDP from port 67 to port 68.",
    "DHCP6-1": "A DHCPv6 client may ask: UDP from a link-local address, port 546, to ff02::1:2 or ff05::1:3 port 547.",
    "DHCP6-2": "A DHCPv6 server's answer may come in: UDP between link-local addresses, from port 547 to port 546.",
    "NDP-1": "Router solicitations may go out: ICMPv6 133/0 to ff02::2.",
    "NDP-2": "Router advertisements may come in: ICMPv6 134/0 from fe80::/10.",
    "NDP-3": "Redirects may come in: ICMPv6 137/0 from fe80::/10.",
    "NDP-4": "Neighbour solicitations may go out: ICMPv6 135/0 to ff02::1:ff00:0/104 and fe80::/10.",
    "NDP-5": "Neighbour solicitations may come in: ICMPv6 135/0 from fe80::/10.",
    "NDP-6": "Neighbour advertisements may go out: ICMPv6 136/0 to fe80::/10.",
    "NDP-7": "Neighbour advertisements may come in from anywhere: ICMPv6 136/0.",
    # Only while the local network is allowed
    "LAN-1": "With the local network allowed, traffic to and from private and link-local addresses is permitted.",
    "LAN-2": "With the local network allowed, local multicast and broadcast may go out.",
    "LAN-3": "With the local network allowed, this machine may be asked as a DHCPv4 server: UDP from port 68 to "
    "255.255.255.255 port 67.",
    "LAN-4": "With the local network allowed, this machine may answer as a DHCPv4 server: UDP from port 67 to port 68.",
    # Forwarding, API
    "FWD-1": "On Linux, what may come in or go out may also be forwarded, but from the tunnel only answers; every "
    "other forwarded packet is rejected.",
    "API-1": "Outside Connected, the API's address, port and protocol may be reached, with its answers: by root on "
    "Linux and macOS, by the service and the problem-report tool on Windows.",
    "API-2": "In Connected, the API is reached inside the tunnel only.",
    # States
    "DIS-1": "Disconnected enforces nothing, as if the service did not run.",
    "DIS-2": "Disconnected with a VPN always required blocks exactly as Error does.",
    "CON-1": "While connecting, the first hop's address, port and protocol may be reached on every interface, with its "
    "answers; the first hop is the bridge if there is one, and then nothing goes to the server directly.",
    "CON-2": "The first hop may be reached by the process that makes the tunnel only: by its mark on Linux, root on "
    "macOS, the service's executable on Windows.",
    "CON-3": "While connecting, traffic inside the tunnel is permitted as soon as the tunnel device exists.",
    "CTD-1": "In Connected, everything inside the tunnel is permitted, in both directions.",
    "CTD-2": "In Connected, DNS to anything but the tunnel's gateway, or the custom servers if there are any, is "
    "blocked.",
    "CTD-3": "In Connected, the first hop may be reached as while connecting.",
    "DSC-1": "Disconnecting keeps the policy that was active before it.",
    "ERR-1": "Error blocks everything but the permanent exceptions, the local network if it is allowed, and the API.",
    "ERR-2": "Error is left by an explicit disconnect, or a reconnect that ends in Connected; the user is told the "
    "cause.",
    "ERR-3": "If enforcement itself fails, the user is told that traffic may be leaking.",
    # DNS
    "DNS-1": "In Connected, DNS goes inside the tunnel and to the relay's gateway only.",
    "DNS-2": "Custom DNS servers are asked inside the tunnel, those with a private or loopback address outside it.",
    "DNS-3": "While connecting, disconnecting or in Error, DNS is blocked.",
    "DNS-4": "Disconnected leaves DNS alone.",
    # Always
    "KS-1": "The kill switch cannot be turned off: until an explicit disconnect no packet leaves but as the policy "
    "says, whatever crashes, changes or breaks.",
    "ATOM-1": "A change of policy is one transaction: no packet is judged by a mixture of two policies, or by none.",
    "EXIT-1": "A service that stops keeps the block if a VPN is always required, or if the user did not ask for the "
    "stop and it was blocking or would connect by itself.",
    "BOOT-1": "Early in boot everything is blocked until the service runs: by a unit on Linux, by persistent filters "
    "on Windows, as early as launchd allows on macOS.",
    "START-1": "The service starts in Disconnected, or connects at once if it is told to connect by itself.",
    "IPC-1": "The management interface is a local socket or pipe that web pages and the network cannot reach.",
    "UI-1": "A front end loads local resources only and talks to the service only; the problem-report tool alone talks "
    "to the API, over TLS.",
    # The VPN-service model
    "MOB-1": "On a phone there is no firewall: the system hands everything the device sends to the service's TUN.",
    "MOB-2": "Android, blocking: everything outgoing is dropped, incoming packets are still delivered.",
    "MOB-3": "What Android exempts from VPNs (connectivity checks, network time) never reaches the TUN: it is shown, "
    "not hidden.",
    "MOB-4": "On iOS the blocked state does not block in the documented version; the blocking variant does.",
}  # fmt: skip
