"""Per-packet enforcement: facts, the readable reference evaluator, the compiler to the native program."""
