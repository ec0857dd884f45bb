"""What the security document says, as data: the frozen `Policy` and the rules it stands for."""
