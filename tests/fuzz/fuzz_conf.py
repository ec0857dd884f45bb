"""Fuzz the parser of configuration files: python tests/fuzz/fuzz_conf.py -runs=100000 [libFuzzer options].

Any bytes are a configuration or a ConfError; what was accepted survives being written and read again, and keeps its
meaning without comments and with other line ends.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["engine.wg"]):
    from engine.wg.conf import ConfError, parse_conf, render_conf


def one_input(data: bytes) -> None:
    try:
        conf = parse_conf(data)
    except ConfError as error:
        if not 1 <= error.line <= data.count(b"\n") + 1 or "\n" in str(error):
            raise RuntimeError(f"a bad refusal: {error!r}") from error
        return
    text = render_conf(conf)
    if parse_conf(text) != conf or parse_conf(text.replace("\n", "\r\n").encode()) != conf:
        raise RuntimeError("the configuration changed on its way through its text")


if __name__ == "__main__":
    seed = Path(__file__).parent / "seeds" / "full.conf"
    atheris.Setup([sys.argv[0], "-max_len=800", f"-seed_inputs={seed}", *sys.argv[1:]], one_input)
    atheris.Fuzz()
