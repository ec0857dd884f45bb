"""Several datapath threads (MOLEHILL_THREADS): every flow stays in order, both ways, and all of them work."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.netns.engines import MOLEHILL, Engine, Keys, config
from tests.netns.lab import Lab, pair, wait_until

pytestmark = pytest.mark.netns

HERE, THERE = "10.9.0.1", "10.9.0.2"
FLOWS, PACKETS = 12, 1500


@contextmanager
def engines(threads: int = 4) -> Iterator[tuple[Lab, Engine, Engine]]:
    """Both ends, connected."""
    with pair() as lab:
        ours, theirs = Keys.new(), Keys.new()
        env = {"MOLEHILL_THREADS": str(threads)}
        # Each end on one CPU: a veth has a queue for each CPU, and a thread that moves may overtake itself there.
        cpus = sorted(os.sched_getaffinity(0))
        a, b = (
            Engine(lab, lab[role], f"mh{lab.tag}{role}", f"taskset -c {cpus[place]} {MOLEHILL}", env)
            for role, place in (("a", 0), ("b", -1))
        )
        a.setconf(config(ours, theirs.public, f"{THERE}/32", endpoint="172.16.9.2:51820"))
        b.setconf(config(theirs, ours.public, f"{HERE}/32", port=51820))
        b.up([f"{THERE}/24"])
        a.up([f"{HERE}/24"])
        lab["a"].sh("ping", "-n", "-c", "1", "-W", "5", THERE)
        yield lab, a, b


def cpu_of_workers(engine: Engine) -> list[float]:
    """The milliseconds that each datapath thread has worked."""
    return [
        int((task / "schedstat").read_text().split()[0]) / 1e6
        for task in Path(f"/proc/{engine.process.pid}/task").iterdir()
        if (task / "comm").read_text().strip() == "molehill-data"
    ]


def echo(lab: Lab, stop: threading.Event) -> threading.Thread:
    """Sends back what comes to THERE:7000, until told to stop."""
    with lab["b"].entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((THERE, 7000))
    sock.settimeout(0.2)

    def serve() -> None:
        with sock:
            while not stop.is_set():
                try:
                    data, whom = sock.recvfrom(2000)
                    sock.sendto(data, whom)
                except TimeoutError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_each_flow_stays_in_order_both_ways_beside_a_stream() -> None:
    with engines() as (lab, a, b):
        stop = threading.Event()
        server = echo(lab, stop)
        sink = lab.start(lab["b"], "iperf3", "-s", "-1", "-B", THERE)
        wait_until(lambda: THERE in lab["b"].sh("ss", "-Hltn", "sport = :5201"), 15, "iperf3's server")
        stream = lab.start(lab["a"], "iperf3", "-c", THERE, "-t", "30", "-P", "2", "-b", "200M")
        flows = []
        for _ in range(FLOWS):
            with lab["a"].entered():
                flows.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            flows[-1].connect((THERE, 7000))
            flows[-1].setblocking(False)
        came: list[list[int]] = [[] for _ in flows]

        def read() -> None:
            for flow, numbers in zip(flows, came, strict=True):
                while True:
                    try:
                        numbers.append(struct.unpack_from("=I", flow.recv(2000))[0])
                    except BlockingIOError:
                        break

        while not all(came):  # the first answer settles which queue a flow has
            for flow in flows:
                flow.send(struct.pack("=I", 0) + bytes(200))
            time.sleep(0.2)
            read()
        for number in range(1, PACKETS):
            for flow in flows:
                flow.send(struct.pack("=I", number) + bytes(200))
            read()
            if number % 4 == 0:
                time.sleep(0.002)
        deadline = time.monotonic() + 5
        while sum(map(len, came)) < FLOWS * PACKETS and time.monotonic() < deadline:
            time.sleep(0.05)
            read()
        stop.set()
        server.join()
        stream.stop()
        sink.stop()
        for flow in flows:
            flow.close()
        assert all(numbers == sorted(numbers) for numbers in came)
        assert min(map(len, came)) > PACKETS / 4  # a busy machine loses some of them beside the streams
        for engine in (a, b):
            assert len(cpu_of_workers(engine)) == 4
        assert sum(spent > 5 for spent in cpu_of_workers(a)) > 1


def test_data_arrives_whole_over_four_streams() -> None:
    with engines() as (lab, _, _):
        sink = lab.start(lab["b"], "iperf3", "-s", "-1", "-B", THERE)
        wait_until(lambda: THERE in lab["b"].sh("ss", "-Hltn", "sport = :5201"), 15, "iperf3's server")
        said = lab["a"].sh("iperf3", "-c", THERE, "-t", "1", "-P", "4", "--bidir")
        sink.stop()
        assert "receiver" in said


def test_a_bad_number_of_threads_is_refused_in_one_sentence() -> None:
    for bad in ("0", "17", "many", ""):
        done = subprocess.run(
            [sys.executable, "-m", "engine.tunnel.molehill_wg", "-f", "mh0"],
            env={**os.environ, "MOLEHILL_THREADS": bad}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr == (
            f"molehill-wg: MOLEHILL_THREADS is {bad!r}: give a number of threads from 1 to 16, or leave it out\n"
        )
