"""The leak lab as tests: its short form, and that it is not blind."""
