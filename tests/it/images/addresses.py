"""Draws addresses and prints what `ipaddress` says of each: addresses.py SEED COUNT."""
import random
import sys
from ipaddress import ip_address, ip_network

EDGES = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
::/128 ::1/128 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16
3fff::/20 fc00::/7 fd00:ec2::/32 168.63.129.16/32 100.100.100.200/32 fe80::/10 fec0::/10 ff00::/8 2000::/3
""".split()
# Global to `ipaddress`, or to some of its versions, and yet no hosts of the internet: protocols,
# relays, services of clouds, and what nobody was assigned.
STRANGE = [
    ip_network(net)
    for net in "192.0.0.0/24 192.88.99.0/24 2001::/23 2002::/16 3fff::/20 168.63.129.16/32".split()
]
ASSIGNED = ip_network("2000::/3")
SHARED = ip_network("100.64.0.0/10")


def addresses(draw, count):
    for edge in map(ip_network, EDGES):
        for at in [edge.network_address, edge.broadcast_address]:
            for step in [-1, 0, 1]:
                try:
                    yield at + step
                except ValueError:
                    pass
    for _ in range(count):
        v4 = draw.getrandbits(32)
        yield ip_address(v4)
        yield ip_address("::ffff:" + str(ip_address(v4)))
        yield ip_address(draw.getrandbits(128))
        yield ASSIGNED.network_address + draw.getrandbits(125)
        net = ip_network(draw.choice(EDGES))
        yield net.network_address + draw.randrange(net.num_addresses)


seed, count = map(int, sys.argv[1:])
for address in addresses(random.Random(seed), count):
    own = getattr(address, "ipv4_mapped", None) or address
    is_strange = any(own in net for net in STRANGE) or (own.version == 6 and own not in ASSIGNED)
    is_host = own.is_global and not own.is_multicast and not own.is_reserved
    is_private = own.is_loopback or own in SHARED or (own.is_private and not own.is_link_local)
    print(address, int(is_host), int(is_private), int(is_strange))
