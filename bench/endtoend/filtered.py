"""`molehill-wg` with the policy of the Connected state in force instead of the program that lets everything pass.

The benchmark's engine: in the product `molehill run` is where a policy is.
"""

from bench.connected import CONNECTED
from engine.filter import compile_policy
from engine.tunnel import molehill_wg

if __name__ == "__main__":
    compiled = compile_policy(CONNECTED)
    molehill_wg.main(compiled.code, compiled.ids)
