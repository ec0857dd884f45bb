"""Fuzz the UAPI protocol: python tests/fuzz/fuzz_uapi.py -runs=100000 [libFuzzer options].

Any bytes, torn anywhere, are requests or UapiErrors; every update that was understood survives its own text, can be
applied, and applied to the result as a whole gives the same result again.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["engine.wg"]):
    from engine.wg.config import DeviceConfig
    from engine.wg.uapi import (
        Connection,
        Get,
        UapiError,
        Update,
        apply_update,
        parse_request,
        render_get,
        render_set,
        update_from,
    )


def stream(*parts: bytes) -> "list[Get | Update | UapiError]":
    connection = Connection()
    return [request for part in (*filter(None, parts), b"") for request in connection.receive(part)]


def one_input(data: bytes) -> None:
    if not data:
        return
    torn = 1 + data[0] % len(data)  # never an empty read: that is the end of the stream
    requests = stream(data)
    if [str(r) for r in stream(data[:torn], data[torn:])] != [str(r) for r in requests]:
        raise RuntimeError("tearing the stream changed its requests")
    config = DeviceConfig()
    for request in requests:
        match request:
            case UapiError():
                if request.errno <= 0 or "\n" in str(request):
                    raise RuntimeError(f"a bad refusal: {request!r}")
            case Get():
                render_get(config, {})
            case Update():
                if parse_request(render_set(request).encode()) != request:
                    raise RuntimeError("the update changed on its way through its text")
                config = apply_update(config, request)
                if apply_update(config, update_from(config)) != config:
                    raise RuntimeError("the configuration is not what its own update makes")


if __name__ == "__main__":
    seed = Path(__file__).parent / "seeds" / "set.uapi"
    atheris.Setup([sys.argv[0], "-max_len=800", f"-seed_inputs={seed}", *sys.argv[1:]], one_input)
    atheris.Fuzz()
