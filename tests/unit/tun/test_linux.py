"""Without a kernel: the reasons it may give, and the offloads it may decline."""

import errno
import fcntl

import pytest
import pytun

from tun import linux
from tun.device import TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6, TunError

TSO = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
USO = TUN_F_USO4 | TUN_F_USO6


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOENT, "there is no /dev/net/tun: load the tun module (modprobe tun) or give it to the container"),
        (errno.ENODEV, "there is no /dev/net/tun: load the tun module (modprobe tun) or give it to the container"),
        (errno.EACCES, "/dev/net/tun may not be opened by this user: run as root"),
        (errno.EPERM, "the interface mh0 may not be created or taken over: run as root or with CAP_NET_ADMIN"),
        (errno.EBUSY, "the interface mh0 is in use by another process: choose another name or stop it"),
        (errno.EINVAL, "the name mh0 is taken by an interface of another kind: choose another name"),
        (errno.ENFILE, "the interface mh0 cannot be created: Too many open files in system"),
    ],
)
def test_each_reason_of_the_kernel_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, "Too many open files in system")

    monkeypatch.setattr(pytun, "TunTapDevice", refuse)
    with pytest.raises(TunError) as caught:
        linux.LinuxTun("mh0")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("declined", "accepted"), [(0, TSO | USO), (USO, TSO), (TUN_F_TSO4, TUN_F_CSUM), (TUN_F_CSUM, 0)]
)
def test_offloads_fall_back_step_by_step(monkeypatch: pytest.MonkeyPatch, declined: int, accepted: int) -> None:
    def ioctl(fd: int, request: int, offer: int) -> int:
        if offer & declined:
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert linux.negotiate_offloads(3) == accepted


def test_a_kernel_that_declines_everything_means_no_offloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(fd: int, request: int, offer: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert linux.negotiate_offloads(3) == 0


def test_another_failure_than_declining_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(fd: int, request: int, offer: int) -> int:
        raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(OSError, match="bad state"):
        linux.negotiate_offloads(3)
