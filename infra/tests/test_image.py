"""The image's users: who may run, read and replace the backend's program, and with which capabilities it starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from conftest import backend_has
from test_backend import stages

USER = 10001
# chown(2), kill(2), setgid(2) and setuid(2), by number (capabilities(7)).
WANTED = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7


def settings():
    """Returns the environment of the backend's stage."""
    pairs = " ".join(line.removeprefix("ENV ") for line in stages()["backend"] if line.startswith("ENV "))
    return dict(pair.split("=") for pair in pairs.split())


def commands():
    """Returns the shell commands of the backend's stage, in order."""
    lines = [line.removeprefix("RUN ") for line in stages()["backend"] if line.startswith("RUN ")]
    return [command.strip() for line in lines for command in re.sub(r"--mount=\S+", "", line).split("&&")]


def status(program, *before):
    """Runs `program`, a copy of `cat`, as the backend's user below `before`, and returns the capabilities it starts with."""
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", *before]
    # A shell in between, so that root's own capabilities are gone.
    run = subprocess.run([*user, "sh", "-c", f"{program} /proc/self/status"], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(?m)^(Cap\w+):\t(\w+)$", run.stdout))
    return int(found["CapPrm"], 16), int(found["CapEff"], 16)


def runs(program, argument, user):
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "sh", "-c", f"{program} {argument}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_only_the_backend_s_group_runs_its_program_and_none_reads_it():
    """A reader could attach to a backend that starts again, before its first instruction; another user would get its
    capabilities. Runs the image's own commands, as root on Linux."""
    installed = [command for command in commands() if "/usr/local/bin/backend" in command]
    assert len(installed) == 2
    assert installed[0] == "install -o root -g 10001 -m 0710 /out/backend /usr/local/bin/backend"
    assert installed[1] == "setcap cap_setuid,cap_setgid,cap_kill,cap_chown=p /usr/local/bin/backend"
    if os.getuid() != 0 or not (shutil.which("setcap") or "CI" in os.environ):
        return
    # Not pytest's directory, which only root may enter.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copy("/bin/cat", f"{place}/backend.out")
        program = f"{place}/backend"
        for command in installed:
            here = command.replace("/out/backend", f"{place}/backend.out").replace("/usr/local/bin/backend", program)
            subprocess.run(["sh", "-euc", here], check=True)
        assert status(program) == (WANTED, 0)
        # A runtime that withholds them: the program starts, and can say so.
        assert status(program, "--bounding-set=-all") == (0, 0)
        assert status(program, "--no-new-privs") == (0, 0)
        assert not runs("cat", program, USER), "its user may read it"
        assert runs(program, "/dev/null", USER) and not runs(program, "/dev/null", 20000)
        assert Path(program).stat().st_uid == 0


def test_every_user_may_run_the_host():
    assert "COPY --from=build --chmod=0755 /out/session-host /usr/local/bin/" in stages()["backend"]


def test_the_image_runs_as_its_user_and_group():
    """The group matters: it is what lets the user run the program."""
    lines = stages()["backend"]
    assert [line for line in lines if line.startswith("USER ")] == [f"USER {USER}:{USER}"]
    made = [command for command in commands() if re.match("(user|group)add ", command)]
    assert made[0] == f"groupadd --gid {USER} shellbridge"
    assert f"--uid {USER} --gid {USER} shellbridge" in made[1] and len(made) == 2


def test_the_image_has_no_set_user_id_programs():
    assert commands()[-1] == "find / -xdev -type f -perm /6000 -exec chmod ug-s {} +", "after all packages"


def test_the_image_keeps_shells_apart():
    environment = settings()
    assert environment["SHELL_SANDBOX"] == "user"
    homes = environment["SHELL_HOMES"]
    # Users pass through to their own homes, and cannot list the others'.
    assert f"install -d -o {USER} -g {USER} -m 0711 {homes}" in commands()
    for name in environment.keys() - {"MIMALLOC_PURGE_DELAY"}:
        assert backend_has(name), name
