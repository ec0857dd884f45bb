"""`molehill explain`: why a packet is let through or blocked, and by whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, Fault
from engine.cli.management import daemon, echo_json
from engine.cli.settings import any_state_option, chosen, policy_from, with_settings

if TYPE_CHECKING:
    from engine.explain.judge import Explanation, Judge

_COLOURS = {"accept": "green", "drop": "red", "reject": "red", "packet": None, "difference": "yellow"}
_BOLD = ("accept", "drop", "reject", "packet")


@click.command("explain")
@any_state_option
@with_settings
@click.option("--pcap", type=click.Path(path_type=Path), metavar="FILE", help="Explain every packet of a capture.")
@click.option("--local", multiple=True, metavar="IP", help="With --pcap: this machine's address, may be repeated.")
@click.option("--tunnel-if", metavar="NAME", help="With --pcap: the interface that is the tunnel. Default: --tunnel.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a packet, one a line.")
@click.argument("packets", nargs=-1, metavar="PACKET...")
def command(
    packets: tuple[str, ...],
    pcap: Path | None,
    local: tuple[str, ...],
    tunnel_if: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Tell what becomes of a PACKET in a state, by which rule, and what each enforcer does with it.

    \b
    A packet is one argument, in quotes:
      DIRECTION INTERFACE PROTO SRC > DST [key=value...]
      DIRECTION  out, in or forward
      INTERFACE  loopback, tunnel or other; forwarded: two, such as tunnel>other
      PROTO      udp, tcp, icmp:TYPE/CODE, icmp6:TYPE/CODE, or another name or number
      SRC, DST   192.0.2.1:443, [2001:db8::1]:443; without ports where there are none
      key=value  mark=0x6d6f6c65  uid=0  exe=service|problem-report|unknown
                 state=new|reply  frag=first|later (a later one after its first shares its verdict)

    \b
    Examples:
      molehill explain 'out other udp 192.168.1.5:4000 > 9.9.9.9:53'
      molehill explain --state error 'out other udp 192.168.1.5:68 > 255.255.255.255:67'
      molehill explain --state connecting --peer 198.51.100.7:51820/udp \\
        'out other udp 192.168.1.5:4000 > 198.51.100.7:51820 mark=0x6d6f6c65'
      molehill explain --state connected --gateway 10.64.0.1 --json \\
        'out tunnel udp 10.64.0.2:5353 > 9.9.9.9:53' | jq .rule
      molehill explain --state connected --pcap eth0.pcapng --local 192.168.1.5

    Of a capture, the sender is presumed to be the service, and an answer to be one if its flow was seen going out.
    The exit code is 0 when every packet was judged, whatever the verdict.
    """
    if bool(packets) == (pcap is not None):
        raise Fault("give PACKETs or --pcap FILE, and not both: see molehill explain --help", BAD_INPUT)
    if (local or tunnel_if) and pcap is None:
        raise Fault("--local and --tunnel-if belong to --pcap", BAD_INPUT)
    if tunnel_if is None and settings["tunnel"]:
        tunnel_if = settings["tunnel"][-1]
    if settings["state"] is None:
        if pcap is not None or chosen(settings):
            raise Fault("--state is missing: without it only PACKETs are taken, and no settings", BAD_INPUT)
        _of_daemon(packets, as_json)
        return

    from engine.explain.judge import Judge

    policy = policy_from(settings)
    judge = Judge(policy)
    shown = _of_capture(judge, pcap, local, tunnel_if) if pcap else _of_texts(judge, packets)
    if not as_json:
        click.echo(f"policy: {policy.describe()}")
    for text, explanation in shown:
        click.echo(json.dumps(as_object(text, explanation)) if as_json else "\n" + as_text(text, explanation))


def _of_daemon(packets: tuple[str, ...], as_json: bool) -> None:
    """What the policy in force does with them."""
    from engine.management.schema import Explanation, Packet

    with daemon("or name a state: --state STATE") as client:
        for number, text in enumerate(packets):
            explanation = client.call("explain", Packet(text), Explanation)
            if as_json:
                echo_json(explanation)
            else:
                click.echo(("\n" if number else "") + explanation.text)


def _of_texts(judge: Judge, packets: tuple[str, ...]) -> list[tuple[str, Explanation]]:
    from engine.explain.packet import PacketError, parse_packet

    found = []
    for number, text in enumerate(packets, 1):
        try:
            facts = parse_packet(text)
        except PacketError as error:
            hint = "" if " " in text.strip() else "\n  (put the whole packet in quotes: it is one argument)"
            raise Fault(f"packet {number}, {error}\n{error.pointing()}{hint}", BAD_INPUT) from None
        found.append((text, facts))
    return [(text, judge.explain(facts)) for text, facts in found]


def _of_capture(
    judge: Judge, path: Path, local: tuple[str, ...], tunnel: str | None
) -> Iterator[tuple[str, Explanation]]:
    from engine.explain.capture import CaptureError, steps
    from engine.explain.packet import packet_text
    from engine.explain.settings import addresses
    from native.audit import Skip

    skipped = 0
    try:
        ours = addresses("local", local)
        if judge.policy.tunnel is not None:
            ours += judge.policy.tunnel.addresses
        with path.open("rb") as file:
            for step in steps(file, judge.policy, ours, tunnel):
                if step.skip is not Skip.NONE:
                    skipped += 1
                elif step.facts is None:
                    yield f"packet {step.number} ({step.direction.name.lower()})", judge.malformed(step.outcome.reason)
                else:
                    yield packet_text(step.facts), judge.explain(step.facts, step.time_ns)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    except CaptureError as error:
        raise Fault(f"{path}: {error}", BAD_INPUT) from None
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
    if skipped:
        click.echo(f"molehill: {skipped} packets are not judged: see molehill audit {path}", err=True)


def as_object(text: str, explanation: Explanation) -> dict[str, Any]:
    """The explanation for programs."""
    return {
        "packet": text,
        "verdict": explanation.verdict,
        "rule": explanation.rule,
        "what": explanation.what,
        "sentence": explanation.sentence,
        "reason": explanation.reason.word,
        "agree": explanation.agree,
        "backends": {
            name: {"verdict": it.verdict, "rule": it.rule, "note": it.note or None}
            for name, it in explanation.backends.items()
        },
    }


def as_text(text: str, explanation: Explanation) -> str:
    """The explanation for people, some lines."""
    from engine.explain import text as words

    return words.as_text(
        text, explanation, lambda piece, what: click.style(piece, fg=_COLOURS[what], bold=what in _BOLD)
    )
