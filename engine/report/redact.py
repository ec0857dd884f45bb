"""What identifies a user or opens a door is replaced by a word in brackets: pure text in, text out.

Order: what has a name first (passwords, home folders, the host's name), then what is known by its form, the longest
form first: a key could hold a number, an IPv6 address may end in an IPv4 one. In doubt more is taken out than needed.
No pattern matches the words in brackets, so to redact twice is to redact once. Every pattern runs in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SECRET = re.compile(
    r"""(?ix)
    ((?: password | passwd | passphrase | (?:pre[_-]?shared|private)[_-]?key | psk | secret | token )
     ["']? [ \t]* [=:] [ \t]* )
    (?: "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | [^\s][^\n]* )  # in quotes, or all the rest of the line
    """
)
_USERINFO = re.compile(r"://[^\s/@]+@")  # of a URI, such as Shadowsocks' ss://
_HOME = re.compile(
    r"""(?ix) (?:/var)?/home/[^/\s:"'<>|]+ | /Users/[^/\s:"'<>|]+ | [a-z]:\\{1,2}Users\\{1,2}[^\\/\s:"'<>|]+
    | (?<![\w.-])/root\b """
)
_HEX = "[0-9A-Fa-f]"
_BASE64 = "[A-Za-z0-9+/_-]"
_FORMS = (
    ("[UUID]", re.compile(rf"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}")),
    ("[hex]", re.compile(rf"{_HEX}{{32,}}")),  # keys as the UAPI writes them, machine ids, /proc/net/if_inet6
    # Base64 with padding: what is long; WireGuard's keys; short ones, such as the keys of Shadowsocks 2022
    ("[key]", re.compile(rf"(?<!{_BASE64}){_BASE64}{{50,}}={{1,2}}")),
    ("[key]", re.compile(rf"{_BASE64}{{43}}=|{_BASE64}{{22}}==")),
    ("[number]", re.compile(r"(?<!\d)\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}(?!\d)")),  # of an account, a card
    ("[MAC]", re.compile(rf"{_HEX}{{2}}(?:[:-]{_HEX}{{2}}){{5,}}|{_HEX}{{4}}(?:\.{_HEX}{{4}}){{2}}")),
    ("[MAC]", re.compile(rf"(?<=\b(?:enx|wlx|wwx)){_HEX}{{12}}\b")),  # in the names of interfaces
)
_COLONS = re.compile(r"[0-9A-Fa-f:.]{2,}")  # whatever could be, or hold, an IPv6 address
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


def redact(text: str, *, homes: Iterable[str] = (), hosts: Iterable[str] = ()) -> str:
    """The text without passwords, keys, addresses (but 127.0.0.1 and ::1), MACs, UUIDs, home folders and host names.

    `homes`: home folders beyond /home, /Users and /root. `hosts`: names of this machine.
    """
    text = _SECRET.sub(r"\1[removed]", text)
    text = _USERINFO.sub("://[removed]@", text)
    for home in sorted(homes, key=len, reverse=True):
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    text = _HOME.sub("~", text)
    for host in sorted(hosts, key=len, reverse=True):
        text = re.sub(rf"(?i)(?<![\w-]){re.escape(host)}(?![\w-])", "[host]", text)
    for word, form in _FORMS:
        text = form.sub(word, text)
    text = _COLONS.sub(_ipv6, text)
    return _IPV4.sub(lambda found: found[0] if found[0] == "127.0.0.1" else "[IPv4]", text)


def _ipv6(found: re.Match[str]) -> str:
    """Keep ::1, and what has too few colons for an address, such as a time of day."""
    run = found[0]
    if ("::" not in run and run.count(":") < 6) or run.rstrip(":.") == "::1":
        return run
    return "[IPv6]"
