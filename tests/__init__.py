"""Tests: unit, properties, native, fuzz, netns and interop (see each folder's head comments)."""
