"""Build hook: setuptools asks cffi for the native module (all metadata lives in pyproject.toml)."""

from setuptools import setup

setup(
    cffi_modules=["native/_build_native.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # the module keeps to the stable ABI
)
