"""The tunnel state machine: events in, effects out; the transition table is data."""
