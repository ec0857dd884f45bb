"""Per-packet enforcement: the readable reference evaluator and the compiler to the native program.

Rules come from engine.policy, packet facts and the judge from native; what agrees here is held equal by tests.
"""

from engine.filter.compile import PASS_ALL, PASS_ALL_RULES, Compiled, compile_policy, compile_rules
from engine.filter.reference import FragmentModel, evaluate, evaluate_later

__all__ = [
    "PASS_ALL",
    "PASS_ALL_RULES",
    "Compiled",
    "FragmentModel",
    "compile_policy",
    "compile_rules",
    "evaluate",
    "evaluate_later",
]
