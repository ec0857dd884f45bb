"""Per-packet enforcement: packet facts, the readable reference evaluator, the compiler to the native program."""
