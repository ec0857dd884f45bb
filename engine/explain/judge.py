"""One packet, every enforcer: what each does with it and why, as `molehill explain` prints it.

The verdict is the native program's. The reference evaluator, and the firewall of the policy's platform by its model,
judge the same facts; where a platform cannot say what the policy says, the note names the difference
(engine.firewall.assumptions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.explain import nftables as nft_model
from engine.filter import FragmentModel, compile_policy
from engine.firewall import assumptions, nftables, pf, wfp
from engine.firewall.packet import Packet
from engine.firewall.pf import evaluate as pf_model
from engine.firewall.wfp import evaluate as wfp_model
from engine.firewall.wfp.constants import Action
from engine.policy import App, Direction, Interface, Platform, Policy
from engine.policy.sentences import SENTENCES
from native import facts as native
from native.reasons import Reason
from native.verdict import Answer, FragmentTable, Program, Verdict

BACKENDS = ("native", "reference", "nftables", "pf", "wfp")
FIREWALLS = {Platform.LINUX: "nftables", Platform.MACOS: "pf", Platform.WINDOWS: "wfp"}
_PLATFORM_NAMES = {
    Platform.LINUX: "Linux", Platform.MACOS: "macOS", Platform.WINDOWS: "Windows",
    Platform.ANDROID: "Android", Platform.IOS: "iOS",
}  # fmt: skip
NOT_LOADED = {
    "pf": "This text has never been loaded on a real macOS: it was judged by a model of pf.conf(5) only.",
    "wfp": "These filters have never been loaded on a real Windows: they were judged by a model of WFP only.",
}


@dataclass(frozen=True)
class Opinion:
    """What one backend does. `verdict` is accept, drop or reject, or None: not applicable, `note` says why."""

    verdict: str | None
    rule: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Explanation:
    """A packet's verdict. `rule` is None if the packet could not be read; `what` is the rule in words."""

    facts: native.Facts | None
    verdict: str
    rule: str | None
    what: str
    sentence: str
    reason: Reason
    backends: dict[str, Opinion]

    @property
    def agree(self) -> bool:
        """Whether every backend that judges the packet lets it pass, or blocks it, like the others."""
        return len({it.verdict == "accept" for it in self.backends.values() if it.verdict is not None}) == 1


class Judge:
    """All enforcers of one policy, made ready once. It remembers first fragments, for the later ones."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._compiled = compile_policy(policy)
        self._program = Program(self._compiled.code)
        self._fragments, self._model = FragmentTable(), FragmentModel(self._compiled.rules)
        self._tunnel = policy.tunnel.name if policy.tunnel else None
        self._firewall = self._prepare()

    def explain(self, facts: native.Facts, time_ns: int = 0) -> Explanation:
        """Judge one packet; a later fragment shares the verdict of its first one, if that was explained before."""
        verdict = self._program.filter(self._fragments, facts, time_ns)
        rule = self._compiled.rules[verdict.rule]
        reference = self._model.filter(facts, time_ns / 1e9)
        backends = {"native": self._opinion(verdict), "reference": self._opinion(reference)}
        backends |= {name: self._asked(name, facts) for name in FIREWALLS.values()}
        return Explanation(facts, _word(verdict), rule.id, rule.what, SENTENCES[rule.id], verdict.reason, backends)

    def malformed(self, reason: Reason) -> Explanation:
        """What becomes of a packet whose headers contradict each other."""
        if not self.policy.blocks:
            what = "disconnected: nothing is enforced"
            return Explanation(None, "accept", "DIS-1", what, SENTENCES["DIS-1"], Reason.NONE, self._unread("accept"))
        return Explanation(None, "drop", None, reason.meaning, SENTENCES["P-0"], reason, self._unread("drop"))

    def _unread(self, verdict: str) -> dict[str, Opinion]:
        unread = Opinion(None, note="not applicable: the model reads no broken packets (malformed)")
        return {name: Opinion(verdict) if name == "native" else unread for name in BACKENDS}

    def _opinion(self, verdict: Verdict) -> Opinion:
        note = "" if verdict.reason in (Reason.NONE, Reason.POLICY) else verdict.reason.meaning
        return Opinion(_word(verdict), self._compiled.ids[verdict.rule], note)

    def _prepare(self) -> Callable[[native.Facts], Opinion] | str:
        """The platform's firewall, or why it cannot be asked."""
        match self.policy.platform:
            case Platform.LINUX:
                document = nftables.render(self.policy)
                return lambda facts: self._nftables(nft_model.judge(document, facts, self._tunnel))
            case Platform.MACOS:
                try:
                    rules = pf_model.parse(pf.render(self.policy))
                except ValueError as error:
                    return str(error)
                return lambda facts: self._pf(facts, *pf_model.judge(rules, packet_of(facts), self._tunnel))
            case Platform.WINDOWS:
                filters = wfp.filters(self.policy)
                return lambda facts: self._wfp(facts, *wfp_model.judge(filters, packet_of(facts), self._tunnel))
            case mobile:
                return f"there is no firewall on {_PLATFORM_NAMES[mobile]}, packets are judged in the TUN (MOB-1)"

    def _asked(self, name: str, facts: native.Facts) -> Opinion:
        own = FIREWALLS.get(self.policy.platform)
        if own is not None and own != name:
            theirs = next(_PLATFORM_NAMES[platform] for platform, firewall in FIREWALLS.items() if firewall == name)
            ours = _PLATFORM_NAMES[self.policy.platform]
            return Opinion(None, note=f"not applicable: the firewall of {theirs}, this policy is for {ours}")
        if isinstance(self._firewall, str):
            return Opinion(None, note=f"not applicable: {self._firewall}")
        if facts.fragment is native.Fragment.LATER:
            difference = assumptions.NO_FRAGMENTS if name == "wfp" else assumptions.REASSEMBLED
            return Opinion(None, note=f"not applicable: {difference.what} ({difference.name})")
        return self._firewall(facts)

    def _nftables(self, judged: tuple[str, str | None]) -> Opinion:
        verdict, comment = judged
        if comment == "CVE-2019-14899":
            return Opinion(verdict, comment, _cited(assumptions.TUNNEL_ADDRESS))
        return Opinion(verdict, comment, "" if comment else "no rule: the table is gone, or the chain's policy")

    def _pf(self, facts: native.Facts, outcome: pf_model.Outcome, label: str | None) -> Opinion:
        words = {pf_model.Outcome.PASS: "accept", pf_model.Outcome.DROP: "drop", pf_model.Outcome.RETURN: "reject"}
        note = _cited(assumptions.FORWARD_TWICE) if facts.direction is native.Direction.FORWARD else ""
        return Opinion(words[outcome], label, note)

    def _wfp(self, facts: native.Facts, action: Action, rule: str | None) -> Opinion:
        note = _cited(assumptions.FORWARD_BLOCKED) if facts.direction is native.Direction.FORWARD else ""
        return Opinion("accept" if action is Action.PERMIT else "drop", rule, note)


def _cited(difference: assumptions.Difference) -> str:
    return f"{difference.what} ({difference.name})"


def _word(verdict: Verdict) -> str:
    if verdict.accept:
        return "accept"
    return "reject" if verdict.answer is Answer.REJECT else "drop"


def packet_of(facts: native.Facts) -> Packet:
    """The facts as the models of PF and WFP take them."""
    forward = facts.direction is native.Direction.FORWARD
    side = facts.iface_out if facts.direction is native.Direction.OUT else facts.iface_in
    return Packet(
        Direction[facts.direction.name], Interface[side.name], facts.proto, facts.src, facts.dst,
        facts.sport, facts.dport,
        None if facts.icmp_type is None or facts.icmp_code is None else (facts.icmp_type, facts.icmp_code),
        facts.uid, App[facts.app.name], reply=facts.reply,
        other_side=Interface[facts.iface_out.name] if forward else None,
    )  # fmt: skip
