import subprocess

import pytest

from engine.wg.keys import clamp, key_from_base64, key_from_hex, key_to_base64, public_key


def wg(*args: str, stdin: str = "") -> str:
    return subprocess.run(["wg", *args], input=stdin, capture_output=True, text=True, check=True).stdout.strip()


def test_public_keys_are_those_that_wg_derives() -> None:
    private = wg("genkey")
    assert key_to_base64(public_key(key_from_base64(private))) == wg("pubkey", stdin=private)


def test_both_spellings_give_the_key_back() -> None:
    key = bytes(range(32))
    assert key_from_base64(key_to_base64(key)) == key
    assert key_from_hex(key.hex()) == key
    assert key_from_hex(key.hex().upper()) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        key_to_base64(bytes(31)),
        key_to_base64(bytes(33)),
        key_to_base64(bytes(32))[:-1],
        key_to_base64(bytes(32)) + "=",
        key_to_base64(bytes(32)) + "\n",
        " " + key_to_base64(bytes(32)),
        "A" * 42 + "B=",  # padding bits that are not zero: a second spelling of the zero key
        "-" * 43 + "=",
        "ä" * 43 + "=",
    ],
)
def test_a_base64_key_has_one_spelling_and_errors_do_not_repeat_it(text: str) -> None:
    with pytest.raises(ValueError, match="44 characters") as caught:
        key_from_base64(text)
    assert not text.strip() or text not in str(caught.value)


@pytest.mark.parametrize("text", ["", "00" * 31, "00" * 33, "0" * 63, "zz" * 32, "0x" + "00" * 31, "é" * 64])
def test_a_hex_key_is_64_digits_and_errors_do_not_repeat_it(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal") as caught:
        key_from_hex(text)
    assert not text or text not in str(caught.value)


def test_clamping_does_not_change_the_public_key() -> None:
    raw = bytes([0xFF] * 32)
    assert clamp(raw) != raw
    assert clamp(clamp(raw)) == clamp(raw)
    assert public_key(clamp(raw)) == public_key(raw)
