"""What goes wrong when a firewall is told its rules (ERR-3)."""


class FirewallError(RuntimeError):
    """The rules could not be loaded, or are not what was loaded. One sentence that names the cause.

    `enforced` says what is known of the machine: True: the rules from before are untouched; False: unknown, so
    traffic may be leaking and the user must be told so (ERR-3).
    """

    def __init__(self, message: str, *, enforced: bool) -> None:
        super().__init__(message)
        self.enforced = enforced


def refused(firewall: str, error: Exception, *, former: bool) -> FirewallError:
    """`firewall` did not take a new set of rules as a whole; `former`: those from before are still in force."""
    if former:
        return FirewallError(f"{firewall} refused the rules, those from before stay in force: {error}", enforced=True)
    return FirewallError(
        f"{firewall} refused the rules and none are in force, traffic may be leaking: {error}", enforced=False
    )
