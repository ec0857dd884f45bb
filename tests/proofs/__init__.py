"""Proofs that every enforcer does what the security document says, for every packet (z3).

`spec` says what the document says; `encode_*` read each enforcer's artefact, from its bytes or text; `prove` asks z3
for a packet on which one differs from the specification, beyond the named differences of engine.firewall.assumptions;
`safety` asks for packets that break a property by itself; `mutants` breaks artefacts to see that it would show;
`policies` says which policies. `python -m tests.proofs` runs all of it, `make test` a sample.

What is symbolic: every fact of a packet, and in `policies.grid` every address and port of an endpoint. What is not:
which rules and lists there are (states, settings, families, protocols, how many servers), which the grid enumerates.
An artefact is rendered for one value of each endpoint; that the renderers write any other value in the same way is
what a second set of values and the concrete corners are there to show.
"""
