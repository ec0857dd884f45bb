"""All that the tunnel state machine remembers, as one value, and the policy that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from engine.policy import Policy, State
from engine.state.effects import Status
from engine.state.events import Candidate, Cause, Settings


class After(Enum):
    """Where Disconnecting leads once the tunnel has closed."""

    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    BLOCK = "block"


@dataclass(frozen=True)
class Situation:
    """What the machine remembers.

    * `first`: the index of the candidate with which attempt 0 begins: the first of the list, or the one that worked
      last. Attempt n uses the n-th after it, around the list.
    * `device`: whether the tunnel device exists.
    * `retrying`: the attempt follows a failure, not a command.
    * `cause` outlives Error until Connected or Disconnected (ERR-2); `failure` says why the policy is not in force.
    * `kept`: Disconnecting's policy (DSC-1).
    """

    state: State = State.DISCONNECTED
    settings: Settings = field(default_factory=Settings)
    first: int = 0
    attempt: int = 0
    retrying: bool = False
    device: bool = False
    online: bool = True
    after: After = After.DISCONNECT
    cause: Cause | None = None
    failure: Cause | None = None
    kept: Policy | None = None

    @property
    def choice(self) -> int:
        """The index of the candidate in use; 0 if there is none."""
        return (self.first + self.attempt) % max(1, len(self.settings.candidates))

    @property
    def candidate(self) -> Candidate:
        """The candidate in use; one without a peer if there is none."""
        return self.settings.candidates[self.choice] if self.settings.candidates else Candidate()

    @property
    def policy(self) -> Policy:
        """The policy this situation calls for."""
        if self.state is State.DISCONNECTING and self.kept is not None:
            return self.kept
        settings, candidate = self.settings, self.candidate
        return Policy(
            state=self.state,
            platform=settings.platform,
            allow_lan=settings.allow_lan,
            always_require_vpn=settings.always_require_vpn,
            peer=candidate.peer,
            bridge=candidate.bridge,
            api=settings.api,
            tunnel=candidate.tunnel if self.device else None,
            dns=settings.dns,
            ios_blocking=settings.ios_blocking,
            tun_only=settings.tun_only,
        )

    @property
    def status(self) -> Status:
        """What the user is told of it."""
        enforced = self.failure is None
        return Status(self.state, self.policy, enforced, self.failure, self.cause, self.attempt, self.online)
