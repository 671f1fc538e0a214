"""The walls that a process puts around itself, from inside: limits, namespaces, landlock, seccomp.

Runs before any untrusted code, in a fresh interpreter with one thread. Only system calls through ctypes: a wall that
needs a wheel would be missing where it is needed most. `confine` raises OSError where the kernel refuses a wall; the
program is then not run at all.

Sources: landlock(7), seccomp(2), user_namespaces(7), pivot_root(2), capabilities(7), and the kernel's headers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)


def confine(plan: dict[str, Any]) -> None:
    """Put up the walls that `plan` asks for (see `hf_merge3h.sandbox.walls`), and go into the working folder."""
    for name, limits in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), limits)
    _prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: whoever started this is gone, so is this
    if plan["namespaces"]:
        _enter_namespaces(plan)
    os.chdir(plan["folder"])
    if plan["namespaces"] or plan["landlock"]:
        _drop_capabilities()
    if plan["seccomp"] or plan["landlock"]:
        _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    if plan["landlock"]:
        _restrict_files(plan)
    if plan["seccomp"]:
        _filter_calls(frozen_files=plan["landlock"])


def _libc(name: str, *arguments: Any) -> int:
    result: int = getattr(_LIBC, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments[:2]}: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    word = ctypes.c_ulong
    _libc("prctl", option, word(value), pointer if pointer is not None else word(0), word(0), word(0))


def _drop_capabilities() -> None:
    """Root without capabilities is one more user; what the walls forget to forbid is then forbidden by permissions."""
    header = struct.pack("Ii", 0x20080522, 0)
    _libc("capset", header, struct.pack("6I", *[0] * 6))


# Namespaces: a root of its own that holds the interpreter, read-only, and an empty folder; no network

_NEW = 0x10000000 | 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000  # user, mounts, network, ipc, host name
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18


def _enter_namespaces(plan: dict[str, Any]) -> None:
    user, group = os.getuid(), os.getgid()
    _libc("unshare", _NEW)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    root = plan["root"]
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in (*plan["read"], *plan["devices"]):
        _show(path, root + path, device=path in plan["devices"])
    os.makedirs(root + plan["folder"])
    _mount("tmpfs", root + plan["folder"], "tmpfs", _NOSUID | _NODEV, f"size={plan['disk']},mode=700")
    os.chdir(root)
    _libc("pivot_root", b".", b".") if hasattr(_LIBC, "pivot_root") else _libc(
        "syscall", _CALLS["pivot_root"], b".", b"."
    )
    _libc("umount2", b".", 2)  # MNT_DETACH: the old root, which lies on top of the new one
    _mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _show(path: str, target: str, *, device: bool) -> None:
    """Make one path of the machine visible under the new root, read-only (devices as they are)."""
    if os.path.lexists(target):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        with open(target, "w"):
            pass
    _mount(path, target, None, _BIND)
    if not device:
        kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)  # a user may not take these off a mount
        _mount(None, target, None, _BIND | _REMOUNT | _RDONLY | kept)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    source_, kind_, options_ = (text.encode() if text is not None else None for text in (source, kind, options))
    _libc("mount", source_, target.encode(), kind_, ctypes.c_ulong(flags), options_)


# Landlock: which files may be opened at all

_READ_FILE, _READ_DIR, _WRITE_FILE, _TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14


def landlock_abi() -> int:
    """The version of landlock that this kernel offers; 0: none."""
    return max(0, _LIBC.syscall(444, None, ctypes.c_size_t(0), 1))


def _restrict_files(plan: dict[str, Any]) -> None:
    abi = landlock_abi()
    if not abi:
        raise OSError("this kernel has no landlock")
    files = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    handled = struct.pack("QQQ", files, 3, 3)  # all of files, of TCP, of signals and abstract sockets
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _libc("syscall", 444, handled, ctypes.c_size_t(size), 0)
    writable = files & ~(1 | 1 << 6 | 1 << 9 | 1 << 11)  # no running of files, no devices, no sockets
    for path in plan["read"]:
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    for path in plan["list"]:
        _allow(ruleset, path, _READ_DIR)
    for path in plan["devices"]:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    _allow(ruleset, plan["folder"], writable)
    _libc("syscall", 446, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    if not os.path.exists(path):
        return
    if not os.path.isdir(path):
        rights &= ~_READ_DIR
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _libc("syscall", 445, ruleset, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


# Seccomp: which system calls are refused. Numbers: asm/unistd_64.h (x86-64), asm-generic/unistd.h (arm64)

_SHARED = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "fchmodat2": 452, "setxattrat": 463,
    "removexattrat": 466,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50,
    "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "semget": 64, "semctl": 66, "msgget": 68,
    "truncate": 76, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101, "setpgid": 109,
    "setsid": 112, "rt_sigqueueinfo": 129, "utime": 132, "mknod": 133, "setpriority": 141, "sched_setparam": 142,
    "sched_setscheduler": 144, "pivot_root": 155,
    "chroot": 161, "mount": 165, "umount2": 166, "init_module": 175, "setxattr": 188, "lsetxattr": 189,
    "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "tgkill": 234,
    "sched_setaffinity": 203, "utimes": 235, "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249,
    "keyctl": 250, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "sched_setattr": 314,
    "mknodat": 259, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "unshare": 272, "utimensat": 280,
    "accept4": 288, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300, "prlimit64": 302,
    "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313,
    "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323, "fcntl": 72, "ioctl": 16,
}  # fmt: skip
_ARM64 = {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "mknodat": 33, "umount2": 39, "mount": 40, "pivot_root": 41, "truncate": 45, "chroot": 51, "fchmod": 52,
    "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "ptrace": 117, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "setpriority": 140, "setpgid": 154,
    "setsid": 157, "mq_open": 180, "msgget": 186, "semget": 190, "semctl": 191, "shmget": 194, "shmctl": 195,
    "shmat": 196, "socket": 198, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "add_key": 217,
    "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221, "rt_tgsigqueueinfo": 240, "perf_event_open": 241,
    "accept4": 242, "prlimit64": 261, "fanotify_init": 262, "open_by_handle_at": 265, "setns": 268,
    "process_vm_readv": 270, "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "execveat": 281,
    "userfaultfd": 282, "kexec_file_load": 294, "fcntl": 25, "ioctl": 29, "ioprio_set": 30, "sched_setparam": 118,
    "sched_setscheduler": 119, "sched_setaffinity": 122, "migrate_pages": 238, "move_pages": 239, "sched_setattr": 274,
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _ARM64)}
_AUDIT, _OWN = _ARCHITECTURES.get(platform.machine(), (0, {}))
_CALLS = {**_OWN, **_SHARED}

# Landlock does not watch these, and they change files outside the folder; with a root of one's own they may stay
_METADATA = (
    "truncate", "chmod", "fchmod", "chown", "fchown", "lchown", "utime", "utimes", "futimesat", "fchownat", "fchmodat",
    "fchmodat2", "utimensat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "setxattrat", "removexattrat",
)  # fmt: skip
_CONDITIONAL = ("clone", "clone3", "kill", "tgkill", "prlimit64", "fcntl", "ioctl")
_OWNERS = {
    "fcntl": (8, 15),
    "ioctl": (0x8901, 0x8902),
}  # F_SETOWN(_EX), FIOSETOWN, SIOCSPGRP: whom a file sends signals
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_Step = tuple[int, int, int, int]  # code, jump if true, jump if false, value: struct sock_filter


def supported() -> bool:
    """Whether the numbers of this processor's system calls are known."""
    return bool(_AUDIT)


def _filter_calls(*, frozen_files: bool) -> None:
    """Refuse sockets, new processes, signals to others, and what reaches into other processes or into the kernel."""
    kept = _CONDITIONAL if frozen_files else (*_CONDITIONAL, *_METADATA)
    program = [(_LOAD, 0, 0, 4), (_JEQ, 1, 0, _AUDIT), (_RET, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if platform.machine() == "x86_64":
        program += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _EPERM)]  # the x32 numbers of the same calls
    for name, number in _CALLS.items():
        if name not in kept:
            program += _refuse(number)
    program += [
        (_JEQ, 0, 1, _CALLS["clone3"]),
        (_RET, 0, 0, _ENOSYS),
    ]  # libc then asks for clone, whose flags can be seen
    program += _when("clone", [(_JSET, 0, 1, 0x00010000), (_RET, 0, 0, _ALLOW)])  # CLONE_THREAD
    myself = [(_JEQ, 0, 1, os.getpid()), (_RET, 0, 0, _ALLOW)]
    program += _when("kill", myself) + _when("tgkill", myself)
    program += _when("prlimit64", [(_JEQ, 0, 1, 0), (_RET, 0, 0, _ALLOW), *myself])
    for name, commands in _OWNERS.items():
        program += _when(
            name, [step for command in commands for step in _refuse(command)], argument=1, otherwise=_ALLOW
        )
    program.append((_RET, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _prctl(22, 2, header)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _refuse(value: int) -> list[_Step]:
    return [(_JEQ, 0, 1, value), (_RET, 0, 0, _EPERM)]


def _when(name: str, steps: list[_Step], argument: int = 0, otherwise: int = _EPERM) -> list[_Step]:
    """If the call is `name`: look at one of its arguments, by `steps`; what they let fall through is `otherwise`."""
    body = [(_LOAD, 0, 0, 16 + 8 * argument), *steps, (_RET, 0, 0, otherwise)]
    return [(_JEQ, 0, len(body), _CALLS[name]), *body]
