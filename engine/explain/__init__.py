"""Why a packet is let through or blocked: packets and settings as text, verdicts of every enforcer, captures.

Nothing here enforces anything: it asks the enforcers that others own, and says in words what they answer.
"""
