"""`molehill audit`: what a policy would have done with everything in a capture, and what would have leaked."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, FAILED, Fault
from engine.cli.settings import policy_from, state_option, with_settings

if TYPE_CHECKING:
    from engine.explain.capture import Report
    from native.audit import Flow

_COLOURS = {"accept": "green", "drop": "red", "reject": "red"}
_PROGRESS_FROM = 1 << 24  # bytes: a smaller file is done before anybody reads a bar


@click.command("audit")
@click.argument("capture", type=click.Path(path_type=Path))
@state_option
@click.option("--local", multiple=True, metavar="IP", help="An address of this machine, may be repeated.")
@click.option("--tunnel-if", metavar="NAME", help="The interface that is the tunnel. Default: --tunnel.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write what would leak, as pcapng.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_settings
def command(
    capture: Path, local: tuple[str, ...], tunnel_if: str | None, out: Path | None, as_json: bool, **settings: Any
) -> None:
    """Judge every packet of CAPTURE, a pcap or pcapng file, by the policy of a state.

    A packet would leak if it goes out and the policy does not accept it. With --out those packets are written to a
    pcapng file, each with the reason as its comment.

    \b
    Which way a packet goes: as the capture says (cooked, pcapng with directions), else
      out  from a --local or --tunnel-address, or by the hardware address that those use
      in   to one of them, or to a group
    all others are counted as not ours. Give every address of the machine, IPv6 too.

    \b
    What a capture does not tell:
      the sender   presumed to be the service, so its packets to the first hop pass
      the answer   a packet whose flow was seen going out, and was accepted
      the tunnel   the interface of that name; where the file names none: raw IP packets

    \b
    Examples:
      sudo tcpdump -i any -w all.pcap ...; molehill audit all.pcap --state connected \\
        --peer 198.51.100.7:51820/udp --gateway 10.64.0.1 --tunnel wg0 --tunnel-address 10.64.0.2
      molehill audit eth0.pcapng --state error --local 192.168.1.5 --local fe80::5 --out leaks.pcapng

    The exit code is 0 when the file was read to its end, whatever was found.
    """
    from engine.explain.capture import CaptureError, audit
    from engine.explain.settings import addresses

    policy = policy_from(settings)
    try:
        ours = addresses("--local", local)
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
    if policy.tunnel is not None:
        ours += policy.tunnel.addresses
    if tunnel_if is None and settings["tunnel"]:
        tunnel_if = settings["tunnel"][-1]
    with _closing(out), ExitStack() as stack:
        try:
            file = stack.enter_context(capture.open("rb", buffering=0))
            information = os.fstat(file.fileno())
        except OSError as error:
            raise Fault(f"{capture}: {error.strerror}", BAD_INPUT) from None
        leaks = None
        if out is not None:
            try:
                if out.exists() and os.path.samestat(out.stat(), information):
                    raise Fault(f"{out} is the capture itself: name another file for --out", BAD_INPUT)
                leaks = stack.enter_context(out.open("wb"))
            except OSError as error:
                raise Fault(f"{out}: {error.strerror}", BAD_INPUT) from None
        progress = _progress(stack, information) if sys.stderr.isatty() else lambda _: None
        try:
            report = audit(file, policy, ours, tunnel_if, leaks=leaks, progress=progress)
        except CaptureError as error:
            raise Fault(f"{capture}: {error}", BAD_INPUT) from None
        except ValueError as error:
            raise Fault(f"--tunnel-if: {error}", BAD_INPUT) from None
        except OSError as error:
            raise Fault(f"{capture}: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(_object(report)))
    else:
        click.echo(f"policy: {policy.describe()}\n\n{_text(report, out)}")
    if report.totals.problem is not None:
        raise Fault(f"{capture}: damaged after packet {report.totals.packets}: {report.note}", FAILED)


@contextmanager
def _closing(out: Path | None) -> Iterator[None]:
    """A disk that is full when the last bytes go to --out is a fault with its name, too."""
    try:
        yield
    except OSError as error:
        if out is None:
            raise
        raise Fault(f"{out}: {error.strerror}") from None


def _progress(stack: ExitStack, information: os.stat_result) -> Callable[[int], None]:
    if not stat.S_ISREG(information.st_mode) or information.st_size < _PROGRESS_FROM:
        return lambda _: None
    bar = stack.enter_context(click.progressbar(length=information.st_size, label="judging", file=sys.stderr))

    def told(total: int) -> None:
        bar.update(total - bar.pos)

    return told


def _text(report: Report, out: Path | None) -> str:
    from engine.cli.status import size
    from native.audit import Skip

    totals = report.totals
    lines = [f"{'rule':8} {'verdict':8} {'packets':>10} {'bytes':>12}  top flows"]
    for row in report.rows:
        verdict = click.style(f"{row.outcome.verdict:8}", fg=_COLOURS[row.outcome.verdict])
        flows = [_flow(flow) for flow in row.top] or [""]
        reason = row.outcome.reason.word
        first = flows[0] if reason in ("none", "policy") else f"({reason}) {flows[0]}"
        lines.append(f"{row.rule or '-':8} {verdict} {row.packets:10} {size(row.bytes):>12}  {first}")
        lines += [f"{'':42}{flow}" for flow in flows[1:]]
    judged = totals.packets - sum(totals.skipped.values())
    lines.append(f"\n{judged} of {totals.packets} packets judged, {size(totals.bytes)}")
    lines += [f"  not judged: {count} {skip.meaning}" for skip, count in totals.skipped.items() if count]
    if totals.skipped[Skip.NOT_OURS] and not judged:
        lines.append("  name this machine's addresses by --local, so that they can be told apart")
    if report.presumed:
        lines.append(f"  {report.presumed} passed as the service's own: a capture does not tell who sent them")
    if totals.forgotten:
        lines.append(f"  {totals.forgotten} flows did not fit the table: later answers to them count as unasked")
    if report.note is not None and totals.problem is None:
        lines.append(f"  {report.note}")
    leak = f"{totals.leaks} packets would leak, {size(totals.leaked_bytes)}" if totals.leaks else "nothing would leak"
    colour = "red" if totals.leaks else "green"
    if totals.packets and not judged:
        leak, colour = "whether anything would leak is not known: no packet could be judged", "yellow"
    lines.append(click.style(leak, fg=colour, bold=True))
    if out is not None:
        lines.append(f"they are in {out}, with the reason as comment" if totals.leaks else f"{out} holds no packets")
    return "\n".join(lines)


def _flow(flow: Flow) -> str:
    from engine.explain.packet import end_text, protocol_name

    source, destination = (
        end_text(address, port or None) for address, port in ((flow.src, flow.sport), (flow.dst, flow.dport))
    )
    way, interface = flow.direction.name.lower(), flow.interface.name.lower()
    return f"{way} {interface} {protocol_name(flow.proto)} {source} > {destination} ({flow.packets})"


def _object(report: Report) -> dict[str, Any]:
    totals = report.totals
    return {
        "packets": totals.packets,
        "judged": totals.packets - sum(totals.skipped.values()),
        "bytes": totals.bytes,
        "leaks": {"packets": totals.leaks, "bytes": totals.leaked_bytes},
        "skipped": {skip.name.lower().replace("_", "-"): count for skip, count in totals.skipped.items()},
        "presumed": report.presumed,
        "forgotten_flows": totals.forgotten,
        "note": report.note,
        "rows": [
            {
                "rule": row.rule,
                "verdict": row.outcome.verdict,
                "reason": row.outcome.reason.word,
                "packets": row.packets,
                "bytes": row.bytes,
                "top": [_flow(flow) for flow in row.top],
            }
            for row in report.rows
        ],
    }
