"""The systemd unit: a restart leaves the sessions, a stop ends them."""

import configparser
import shutil
import subprocess

from conftest import INFRA, backend_has
from test_image import commands

UNIT = INFRA / "shellbridge.service"


def service():
    unit = configparser.ConfigParser(interpolation=None, comment_prefixes=("#",), delimiters=("=",), strict=True)
    unit.optionxform = str
    unit.read(UNIT)
    return unit["Service"]


def settings():
    return dict(pair.split("=") for pair in service()["Environment"].split())


def test_a_restart_leaves_hosts_and_their_sockets():
    unit = service()
    # Modes but `process` kill the hosts, whatever the signal to the backend's init.
    assert (unit["RestartKillSignal"], unit["KillSignal"], unit["KillMode"]) == ("SIGHUP", "SIGTERM", "process")
    assert unit["RuntimeDirectoryPreserve"] == "yes" and unit["RuntimeDirectoryMode"] == "0700"
    assert settings()["RUN_DIR"] == f"/run/{unit['RuntimeDirectory']}"
    assert "PrivateTmp" not in unit


def test_a_crash_is_mended_and_a_hungry_shell_ends_alone():
    unit = service()
    assert unit["ExecStart"] == "/usr/local/bin/backend --init"
    assert (unit["Restart"], unit["OOMPolicy"]) == ("on-failure", "continue")


def test_each_session_can_have_a_user():
    unit = service()
    assert settings()["SHELL_SANDBOX"] == "user"
    assert settings()["SHELL_HOMES"] == f"/var/lib/{unit['StateDirectory']}" and unit["StateDirectoryMode"] == "0711"
    (line,) = (command for command in commands() if command.startswith("setcap "))
    wanted = set(line.split()[1].partition("=")[0].upper().split(","))
    assert set(unit["AmbientCapabilities"].split()) == set(unit["CapabilityBoundingSet"].split()) == wanted
    assert all(backend_has(name) for name in settings())


def test_systemd_accepts_the_unit(tmp_path):
    if not shutil.which("systemd-analyze"):
        # The other tests parse it.
        return
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/backend", "/bin/true").replace("User=shellbridge", "User=root"))
    verified = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
