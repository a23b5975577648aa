"""The ledger against the counters of network interfaces: three ranks in three network namespaces, joined by a bridge.

Needs root, `ip`, and torch. Each rank reads the bytes that its interface has sent before and after an epoch.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lowbit_dtp.distributed import HEADER_BYTES

RANKS = 3
SEGMENT = 66
"""Bytes of Ethernet, IPv4 and TCP before the data of a segment; one without data confirms others."""
RANK = """
import json, sys
from pathlib import Path
from lowbit_dtp import Link, Network, rules
from lowbit_dtp.data import load
from lowbit_dtp.distributed import Placement, split_network
from lowbit_dtp.distributed.exchange import gather
from lowbit_dtp.distributed.process_group import ProcessGroup
from lowbit_dtp.distributed.split import split_samples
from lowbit_dtp.ledger import Direction
from lowbit_dtp.optimizers import RMSprop
from lowbit_dtp.training import Progress, fit

def interface(name):
    return int(Path(f"/sys/class/net/eth0/statistics/{name}").read_text())

sent = []
with ProcessGroup() as ranks:
    links = [Link("ufixed(8,0)"), Link("binary", "binary"), Link("float32", "float32")]
    net = Network.build([64, 500, 500, 10], links)
    placement = Placement({"h1": 0, "h2": 1, "output": 2})
    net = split_network(net, placement, ranks)
    send = ranks.send
    ranks.send = lambda rank, message: (sent.append(message.size), send(rank, message))
    progress = Progress()
    gather(ranks, "begin")
    del sent[:]
    before = [interface(name) for name in ("tx_bytes", "tx_packets", "rx_packets")]
    for _ in fit(net, rules.DTP(), RMSprop(1e-3), split_samples(load("digits").train, net), 2, 50, mode="plain",
                 progress=progress):
        pass
    bytes_sent, messages = sum(sent), len(sent)
    gather(ranks, "end")
    after = [interface(name) for name in ("tx_bytes", "tx_packets", "rx_packets")]
crossing = {0: [("h1-h2", Direction.FORWARD)], 2: [("h2-output", Direction.FEEDBACK)],
            1: [("h1-h2", Direction.FEEDBACK), ("h2-output", Direction.FORWARD)]}[ranks.rank]
print(json.dumps({
    "ledger": sum(progress.ledger.bits(link, direction, word_bits=64) for link, direction in crossing) / 8,
    "sent": bytes_sent, "messages": messages, "interface": [b - a for a, b in zip(before, after)],
}))
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Names of namespaces that reach each other by an interface eth0, 10.77.0.1 and so on."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root, and ip of iproute2")
    names, bridge = [f"lowbit{rank}" for rank in range(RANKS)], "lowbit-bridge"
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", bridge, "up")
        for rank, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"lowbit{rank}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"lowbit{rank}", "master", bridge, "up")
            ip("-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                ip("-n", name, "link", "set", interface, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)


def test_interfaces_count_what_the_ledger_counts(namespaces: list[str]) -> None:
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-c", RANK],
            env=os.environ | {
                "RANK": str(rank), "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29500",
                "GLOO_SOCKET_IFNAME": "eth0",
            },
            stdout=subprocess.PIPE, text=True,
        )
        for rank, name in enumerate(namespaces)
    ]  # fmt: skip
    for process in started:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        found = json.loads(out)
        assert found["sent"] == found["ledger"] + HEADER_BYTES * found["messages"]
        sent, packets, _ = found["interface"]
        # beside the messages: frames of the transport around each, and the segments' own headers
        assert found["sent"] < sent - packets * SEGMENT < found["sent"] * 1.02 + 200 * found["messages"], found
