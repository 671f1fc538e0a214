"""What hostile programs try: to pass without solving, to reach out, to stay, to take the machine down."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from hf_merge3h.sandbox import available, run_programs, walls

KINDS = [kind for kind, reason in available().items() if not reason]
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
HUMANEVAL = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(-1, 1) == 0\ncheck(add)"
TRUTHS = "import math\nassert math.isclose(add(1, 2), 3)\nassert abs(add(-1, 1)) < 1e-9"

# Each claims to have passed without adding anything.
FORGERIES = {
    "exit": "import sys\nsys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "exit in the function": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit in the function": "def add(a, b): raise SystemExit(0)",
    "replaced AssertionError": """
        import builtins
        class Never(Exception):
            def __new__(cls, *_): return SystemExit(0)
        builtins.AssertionError = AssertionError = Never
        def add(a, b): return 0
        """,
    "replaced builtins": """
        import builtins, sys, os, json, marshal
        builtins.exec = builtins.compile = builtins.bool = lambda *a, **k: True
        sys.exit = os._exit = os.write = os.read = lambda *a: 0
        marshal.loads = lambda data: (compile("", "", "exec"), [])
        def add(a, b): return 0
        """,
    "equal to everything": """
        class Yes(int):
            __eq__ = __lt__ = __gt__ = __le__ = __ge__ = lambda *_: True
            __ne__ = lambda *_: False
            __hash__ = int.__hash__
            __sub__ = __rsub__ = __abs__ = lambda *_: Yes(0)
        class No:
            __eq__ = lambda *_: True
        def add(a, b): return Yes(77) if a > 0 else No()
        """,
    "printed verdict": """
        import sys
        for text in ("passed", "True", "OK", "Outcome(outcome='passed')"):
            print(text, flush=True)
            sys.__stdout__.write(text)
        sys.exit(0)
        """,
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\nraise SystemExit(0)",
    "frames": """
        import sys, inspect
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
                    if isinstance(value, (bytes, str)) and len(value) == 16: print(value)
                    if name in ("result", "passed", "verdict", "ok"): frame.f_locals[name] = True
                for constant in frame.f_code.co_consts:
                    if isinstance(constant, int) and constant == 3: return constant
                frame = frame.f_back
            return None
        """,
    "objects": """
        import gc
        def add(a, b):
            for thing in gc.get_objects():
                if isinstance(thing, dict):
                    for name in ("expected", "answers", "token", "secret", "verdict"):
                        if name in thing: return thing[name]
                if hasattr(type(thing), "expected"): return thing.expected
                if type(thing).__name__ in ("Examination", "_Run", "Outcome"): return thing
            return None
        """,
    "own frames into every pipe": """
        import os
        for file in range(64):
            for frame in (b"S", b"R", b"T" + bytes(16), b"V" + bytes(4) + b"true", b"passed"):
                try: os.write(file, len(frame).to_bytes(4, "little") + frame)
                except OSError: pass
        os._exit(0)
        """,
    "asks for the tests without end": """
        import os
        while True:
            for file in range(3, 64):
                try: os.write(file, b"\\x01\\0\\0\\0R" * 10000)
                except OSError: pass
        """,
    "takes the word and gives it back": """
        import os
        def add(a, b):
            for file in range(64):
                try:
                    os.set_blocking(file, False)
                    word = os.read(file, 64)[4:]
                    for out in range(64):
                        try: os.write(out, (17).to_bytes(4, "little") + b"T" + word)
                        except OSError: pass
                except OSError: pass
            os._exit(0)
        """,
    "no tests": "__hf_check__ = print\ndef add(a, b):\n    globals()['__hf_check__'] = lambda *_: None",
    "deletes the check": """
        def add(a, b):
            import sys
            sys._getframe(1).f_globals["__hf_check__"] = lambda *_: None
        """,
    "raises to be caught": "def add(a, b): raise AssertionError",
    "negates": "class Odd:\n    def __bool__(self): raise SystemExit(0)\ndef add(a, b): return Odd()",
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_forgery_scores(kind):
    names = list(FORGERIES)
    programs = [(textwrap.dedent(FORGERIES[name]), tests) for name in names for tests in (TESTS, HUMANEVAL)]
    ran = run_programs(programs, timeout=5, sandbox=kind)
    found = {name: (ran[2 * place].outcome, ran[2 * place + 1].outcome) for place, name in enumerate(names)}
    assert found == dict.fromkeys(names, ("failed", "failed"))


@pytest.mark.parametrize("kind", KINDS)
def test_where_tests_name_no_literal_only_a_lying_value_passes(kind):
    """`abs(add(...)) < 1e-9` asks the candidate's own object, and believes it: a limit that docs/SANDBOX.md names."""
    names = [name for name in FORGERIES if name not in ("equal to everything", "takes the word and gives it back")]
    ran = run_programs([(textwrap.dedent(FORGERIES[name]), TRUTHS) for name in names], timeout=5, sandbox=kind)
    assert dict(zip(names, (one.outcome for one in ran))) == dict.fromkeys(names, "failed")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_written_outside(kind, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    before = victim.stat()
    moved = str(Path(tempfile.gettempdir()) / "hf_moved")
    places = [
        str(tmp_path / "new"),
        str(victim),
        str(Path(tempfile.gettempdir()) / "hf_escape"),
        "/dev/shm/hf_escape",
        "/var/tmp/hf_escape",
        "/hf_escape",
    ]
    candidate = textwrap.dedent(f"""
        import os
        done = []
        def attempt(action, *arguments):
            try:
                action(*arguments)
                done.append(action.__name__)
            except OSError: pass
        for place in {places!r}:
            for mode in ("w", "a", "r+"): attempt(open, place, mode)
            attempt(os.mkdir, place + "_folder")
            attempt(os.symlink, "x", place + "_link")
        victim = {str(victim)!r}
        for action, arguments in ((os.remove, ()), (os.chmod, (0o777,)), (os.truncate, (0,)), (os.utime, ((1, 1),)),
                                  (os.rename, ({moved!r},)), (os.chown, (1, 1)), (os.link, ("linked",))):
            attempt(action, victim, *arguments)
        def add(a, b): return a + b
        """)
    ran = run_programs([(candidate, TESTS)], sandbox=kind)
    assert ran[0].outcome == "passed"
    assert [path.name for path in tmp_path.iterdir()] == ["victim"]
    assert victim.read_text() == "as it was"
    assert (victim.stat().st_mode, victim.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert not os.path.lexists(moved)
    assert not any(os.path.lexists(path + end) for path in places[2:] for end in ("", "_folder", "_link"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_is_read(kind, monkeypatch, tmp_path):
    secret = "hf_" + "q" * 34
    monkeypatch.setenv("HF_TOKEN", secret)
    cache = tmp_path / "huggingface"
    cache.mkdir()
    (cache / "token").write_text(secret)
    # Interpreter and packages may be read, so the folders above them are there: a checkout may lie in one of these.
    above = {str(each) for path in (sys.prefix, sys.base_prefix, *sys.path) for each in Path(path).parents}
    named = (str(cache), str(Path.home() / ".cache"), "/home", "/tmp", "/proc", "/run")
    places = [place for place in named if place not in above]
    candidate = textwrap.dedent(f"""
        import os
        found = [os.environ.get("HF_TOKEN"), str(dict(os.environ)), str(os.environb)]
        places = [{str(cache / "token")!r}, "/proc/self/environ", "/proc/1/environ", f"/proc/{{os.getppid()}}/environ"]
        for place in places:
            try: found.append(open(place).read())
            except OSError: pass
        def stolen(): return any({secret!r} in str(text) for text in found)
        def listed():
            names = []
            for place in {places!r}:
                try: names += os.listdir(place)
                except OSError: pass
            return names
        """)
    tests = "assert stolen() is False\nassert listed() == []"
    ran = run_programs([(candidate, tests)], sandbox=kind)
    assert ran[0].passed, ran[0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_socket_reaches_anything(kind):
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]

        def listen():
            try:
                heard.append(server.accept()[0])
            except OSError:
                return

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        candidate = textwrap.dedent("""
            import socket
            def reach(*address):
                try:
                    with socket.socket(*address[1:]) as end:
                        end.settimeout(1)
                        end.connect(address[0])
                        return "reached"
                except OSError: return "refused"
            """)
        tests = (
            f"assert reach(('127.0.0.1', {port})) == 'refused'\n"
            "assert reach(('1.1.1.1', 80)) == 'refused'\n"
            "assert reach('\\0abstract', socket.AF_UNIX) == 'refused'\n"
            "assert reach(('127.0.0.1', 53), socket.AF_INET, socket.SOCK_DGRAM) == 'refused'\n"
        )
        ran = run_programs([(candidate, tests)], sandbox=kind)
        assert ran[0].passed, ran[0]
        assert not heard
        server.close()


@pytest.mark.parametrize("kind", KINDS)
def test_no_process_is_started_or_killed(kind):
    """The supervisor of this test is a child, so that an attack that works is seen and survived."""
    candidate = textwrap.dedent("""
        import os, signal, subprocess, sys
        def attempt(action, *arguments):
            try:
                action(*arguments)
                return "done"
            except OSError as error: return "refused"
        def bomb():
            while True: os.fork()
        def run(): subprocess.run([sys.executable, "-c", "pass"], check=True)
        def kill(): os.kill(os.getppid(), signal.SIGKILL)
        def kill_all(): os.kill(-1, signal.SIGKILL)
        def signal_by_file():
            import fcntl
            ends = os.pipe()
            fcntl.fcntl(ends[0], fcntl.F_SETOWN, os.getppid())
            fcntl.fcntl(ends[0], fcntl.F_SETFL, os.O_ASYNC)
            os.write(ends[1], b"x")
        def slow_down(): os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))
        """)
    tests = (
        "assert attempt(bomb) == 'refused'\nassert attempt(run) == 'refused'\n"
        "assert attempt(kill) == 'refused'\nassert attempt(kill_all) == 'refused'\n"
        "assert attempt(signal_by_file) == 'refused'\nassert attempt(slow_down) == 'refused'\n"
        "assert attempt(os.setsid) == 'refused'\nassert attempt(os.execv, sys.executable, ['x']) == 'refused'\n"
    )
    pair = (candidate, tests)
    code = f"from hf_merge3h.sandbox import run_programs as run\nprint(run([{pair!r}], sandbox={kind!r})[0])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "outcome='passed'" in ran.stdout, ran


@pytest.mark.parametrize("kind", KINDS)
def test_memory_time_and_disk_end_where_they_should(kind):
    programs = [
        ("held = bytearray(20 << 30)\ndef add(a, b): return a + b", TESTS),
        ("held = []\nwhile True: held.append(bytearray(1 << 20))", TESTS),
        ("def add(a, b):\n    while True:\n        try: pass\n        except: pass", TESTS),
        ("import signal, time\nfor s in range(1, 32):\n"
         "    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
         "while True: time.sleep(1)", TESTS),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", TESTS),
        ("import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()", TESTS),
        ("file = open('big', 'wb')\nwhile True: file.write(bytes(1 << 20))", TESTS),
        ("def f(): return f()\nimport sys\nsys.setrecursionlimit(10**9)\nf()", TESTS),
        ("def add(a, b): return [0] * 10_000_000", TESTS),
        ("import os\nfor _ in range(64):\n    try: os.write(_, b'\\xff' * 10**5)\n    except OSError: pass", TESTS),
    ]  # fmt: skip
    ran = run_programs(programs, timeout=2, memory=256 << 20, sandbox=kind)
    found = [one.outcome for one in ran]
    assert found[:5] == ["out_of_memory", "out_of_memory", "timeout", "timeout", "timeout"]
    assert found[5] in ("failed", "out_of_memory", "timeout")
    assert (found[6], found[9]) == ("failed", "failed"), ran[6:]
    assert "passed" not in found


def _processes():
    """Interpreters of the sandbox whose parent is this process, or gone."""
    return {path.name for path in Path("/proc").iterdir() if path.name.isdigit() and _boots(path)}


def _boots(process):
    try:
        words = (process / "cmdline").read_bytes()
        parents = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
    except OSError:
        return False
    return b"confine, harness, plan = take()" in words and parents in (str(os.getpid()), "1")


@pytest.mark.parametrize("kind", KINDS)
def test_no_trace_is_left(kind, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    deep = "import os\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\nos.mkdir('e', 0)\nwhile True: pass"
    left = "open('left', 'w').write('x')\ndef add(a, b): return a + b"
    ran = run_programs([(deep, TESTS), (left, TESTS)], timeout=2, sandbox=kind)
    assert [one.outcome for one in ran] == ["timeout", "passed"]
    assert list(tmp_path.iterdir()) == []
    assert _processes() == set()


def _python_of_everybody():
    """An interpreter that every user may start, 3.11 or newer; None where there is none."""
    for path in (walls.interpreter(), shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if path and path.startswith("/usr/"):
            old = subprocess.run([path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode
            return None if old else path
    return None


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="tries other users, so must be root")
@pytest.mark.skipif(_python_of_everybody() is None, reason="no interpreter of 3.11 that every user can start")
@pytest.mark.parametrize("kind", KINDS)
def test_it_works_for_a_user_without_rights(kind):
    code = f"""
        from hf_merge3h.sandbox import run_programs
        pairs = [("def add(a, b): return a + b", {TESTS!r}), ("def add(a, b): return 9", {TESTS!r})]
        print([one.outcome for one in run_programs(pairs, sandbox={kind!r})])
        """
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "hf_merge3h"
        shutil.copytree(Path(walls.__file__).parent, package / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(Path(walls.__file__).parents[1] / "errors.py", package)
        (package / "__init__.py").touch()
        Path(folder).chmod(0o755)
        command = [*user, _python_of_everybody(), "-c", textwrap.dedent(code)]
        ran = subprocess.run(command, cwd=folder, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert ran.stdout.strip() == "['passed', 'failed']", ran
