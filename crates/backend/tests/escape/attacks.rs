//! The attacks: what an attacker types into a session's shell.
//!
//! Each is a command of a POSIX shell that succeeds if it reaches something outside the session, and fails otherwise.
//! `table` describes the victim, a session of another user, by variables: `V_SHELL`, `V_HOST` and `V_JOB` are PIDs of its
//! interactive shell, its host and a background process; `V_HOME`, `V_TMP` and `V_TTY` are its paths; `V_SHM` is a shared
//! memory segment. `/tmp/v-ID` and `/dev/shm/v-ID`, where ID is `V_ID`, are files that it made. `BACKEND` is the PID of
//! the backend, `RUN_DIR` and `PROGRAMS` its directories. Its secrets contain the word `secret`.

/// An attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) command: &'static str,
    /// Whether it succeeds where nothing keeps sessions apart and all run as root: shows that the attack works.
    pub(crate) works: bool,
}

const fn works(name: &'static str, command: &'static str) -> Attack {
    Attack { name, command, works: true }
}

/// An attack that fails without a sandbox, too, or cannot be tried there without harm.
const fn fails(name: &'static str, command: &'static str) -> Attack {
    Attack { name, command, works: false }
}

pub(crate) const ATTACKS: &[Attack] = &[
    // Files of another session.
    works("read a file in its home", "grep secret $V_HOME/notes"),
    works("list its home", "ls $V_HOME"),
    works("read its history", "grep secret $V_HOME/.sh_history"),
    works("create a file in its home", "touch $V_HOME/planted"),
    works("replace its profile", "echo 'echo planted' >>$V_HOME/.profile"),
    works("read a file in its directory for temporary files", "grep secret $V_TMP/file"),
    works("create a file in that", "touch $V_TMP/planted"),
    works("read its file in /tmp", "grep secret /tmp/v-$V_ID"),
    works("write to it", "echo planted >>/tmp/v-$V_ID"),
    works("truncate it", "truncate -s 1 /tmp/v-$V_ID && echo secret >/tmp/v-$V_ID"),
    works("rename it", "mv /tmp/v-$V_ID /tmp/w-$V_ID && mv /tmp/w-$V_ID /tmp/v-$V_ID"),
    works("make it readable", "chmod 666 /tmp/v-$V_ID"),
    works("take it over", "chown $(id -u) /tmp/v-$V_ID"),
    works("link to it", "ln /tmp/v-$V_ID $HOME/v-$V_ID && grep secret $HOME/v-$V_ID"),
    works("read its shared memory file", "grep secret /dev/shm/v-$V_ID"),
    works(
        "remove it",
        "cp /dev/shm/v-$V_ID ~/copy-$V_ID && rm -f /dev/shm/v-$V_ID && mv ~/copy-$V_ID /dev/shm/v-$V_ID",
    ),
    works("read a file through its working directory", "grep secret /proc/$V_SHELL/cwd/notes"),
    works("read a file through its root", "grep secret /proc/$V_SHELL/root/$V_HOME/notes"),
    fails("list all homes", "test $V_HOME != $HOME && ls ${V_HOME%/*/*}"),
    fails("list the place of its home", "test $V_HOME != $HOME && ls ${V_HOME%/*}"),
    fails("move the home of this session", "mv $HOME $HOME.old && mv $HOME.old $HOME"),
    fails("open the place of this session", "chmod 777 ${HOME%/*}"),
    fails("create a home", "mkdir ${HOME%/*/*}/12345"),
    fails("remove the lock of all homes", "test -e ${HOME%/*/*}/lock && rm -f ${HOME%/*/*}/lock"),
    // Its processes.
    works("read the environment of its shell", "grep -a secret /proc/$V_SHELL/environ"),
    works("read the environment of its job", "grep -a secret /proc/$V_JOB/environ"),
    works("list its descriptors", "ls /proc/$V_SHELL/fd/0"),
    works("see its working directory", "readlink /proc/$V_SHELL/cwd"),
    works("see its program", "readlink /proc/$V_SHELL/exe"),
    works("see its memory map", "grep . /proc/$V_SHELL/maps"),
    works(
        "read its memory",
        "python3 -c 'import os
pid = os.environ[\"V_JOB\"]
start = int(open(f\"/proc/{pid}/maps\").readline().split(\"-\")[0], 16)
file = open(f\"/proc/{pid}/mem\", \"rb\"); file.seek(start); assert file.read(4)'",
    ),
    works(
        "read its memory by process_vm_readv",
        "python3 -c 'import ctypes, os
pid = int(os.environ[\"V_JOB\"])
libc = ctypes.CDLL(None)
class vec(ctypes.Structure): _fields_ = [(\"base\", ctypes.c_void_p), (\"len\", ctypes.c_size_t)]
into = ctypes.create_string_buffer(8); here = vec(ctypes.addressof(into), 8); there = vec(1, 8)
ctypes.set_errno(0); libc = ctypes.CDLL(None, use_errno=True)
libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
assert ctypes.get_errno() == 14, ctypes.get_errno()'",
    ),
    works(
        "trace it",
        "python3 -c 'import ctypes, os
libc = ctypes.CDLL(None); pid = int(os.environ[\"V_JOB\"])
assert libc.ptrace(0x4206, pid, None, None) == 0'",
    ),
    works(
        "take a descriptor of it",
        "python3 -c 'import ctypes, os
libc = ctypes.CDLL(None)
assert libc.syscall(438, os.pidfd_open(int(os.environ[\"V_JOB\"])), 0, 0) >= 0'",
    ),
    fails("enter its namespaces", "nsenter -t $V_JOB -m true"),
    works("signal its shell", "kill -0 $V_SHELL"),
    works("stop and continue its job", "kill -STOP $V_JOB && kill -CONT $V_JOB"),
    works("signal its process group", "kill -0 -$(ps -o pgid= $V_JOB | tr -d ' ')"),
    works("signal its host", "kill -0 $V_HOST"),
    works("lower its priority", "renice -n 19 -p $V_JOB"),
    works("lower its I/O priority", "ionice -c 3 -p $V_JOB"),
    works("pin it to a processor", "taskset -p 1 $V_JOB"),
    works("change its scheduling", "chrt -b -p 0 $V_JOB"),
    works("lower its limits", "prlimit --pid $V_JOB --nofile=50"),
    works("make it the first to be ended without memory", "echo 1000 >/proc/$V_JOB/oom_score_adj"),
    works("change its autogroup", "echo 0 >/proc/$V_JOB/autogroup || echo 0 >/proc/$V_JOB/comm"),
    works("see its system call", "grep . /proc/$V_JOB/syscall"),
    works("see its input and output", "grep . /proc/$V_JOB/io"),
    works("see its auxiliary vector", "grep -a -c . /proc/$V_JOB/auxv"),
    // Its terminal and IPC.
    works("write to its terminal", "printf '' >$V_TTY"),
    works("read from its terminal", ": <$V_TTY"),
    works("change its terminal", "stty -F $V_TTY -a"),
    works("open its terminal to others", "chmod 666 $V_TTY"),
    works("write to its terminal through its descriptor", "printf '' >/proc/$V_SHELL/fd/1"),
    works(
        "attach its shared memory segment",
        "python3 -c 'import ctypes, os
libc = ctypes.CDLL(None); libc.shmat.restype = ctypes.c_long
assert libc.shmat(int(os.environ[\"V_SHM\"]), None, 0) != -1'",
    ),
    works("remove its shared memory segment", "ipcrm -m $V_SHM"),
    // The backend, and this session's own host.
    fails("read the backend's environment", "grep -a . /proc/$BACKEND/environ"),
    fails("see the backend's memory map", "grep . /proc/$BACKEND/maps"),
    fails("list the backend's descriptors", "ls /proc/$BACKEND/fd/0"),
    fails("read the backend's program", "test $(id -u) != 0 && head -c 4 /proc/$BACKEND/exe | grep ELF"),
    fails(
        "trace the backend",
        "python3 -c 'import ctypes, os
libc = ctypes.CDLL(None)
assert libc.ptrace(0x4206, int(os.environ[\"BACKEND\"]), None, None) == 0'",
    ),
    works("signal the backend", "kill -0 $BACKEND"),
    works("lower the backend's priority", "renice -n 1 -p $BACKEND"),
    works("lower the backend's limits", "prlimit --pid $BACKEND --core=0"),
    works("list the directory of sockets", "ls $RUN_DIR"),
    fails(
        "connect to the host of another session",
        "python3 -c 'import glob, os, socket
paths = glob.glob(os.environ[\"RUN_DIR\"] + \"/*.sock\"); assert paths
for path in paths: socket.socket(socket.AF_UNIX).connect(path)'",
    ),
    works("remove the sockets", "test -w $RUN_DIR && touch $RUN_DIR/planted && rm $RUN_DIR/planted"),
    fails(
        "read the environment of this session's host",
        "test $(id -u) != 0 && grep -a . /proc/$PPID/environ",
    ),
    fails("see the memory map of this session's host", "grep . /proc/$PPID/maps"),
    fails(
        "find a secret of the platform in its environment",
        "env | grep -e BRIDGE -e JWT -e ADMIN_TOKEN -e AWS",
    ),
    fails(
        "find a secret of the platform in any process",
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -a -e 'a bridge [s]ecret' -e 'a [s]ecret of users'",
    ),
    fails("find an inherited socket", "ls -l /proc/self/fd | grep -e socket: -e '/run/'"),
    // More rights.
    works("become root", "python3 -c 'import os; os.setuid(0)'"),
    works("become root by setpriv", "setpriv --reuid 0 true"),
    works("become root by su", "su -c true </dev/null"),
    fails("become root by sudo", "sudo -n true"),
    works("get another group", "setpriv --regid 0 --clear-groups true"),
    fails("have other groups", "test $(id -u) != 0 && id -G | grep ' '"),
    works("have a capability", "grep 'Cap[EPIA][a-z]*:.*[1-9a-f]' /proc/self/status"),
    works("gain privileges by a program", "grep 'NoNewPrivs:.*0' /proc/self/status"),
    works(
        "gain privileges by a program with its user's id",
        "cp /bin/sh ~/sh && chmod 4755 ~/sh && test $(id -u) = 0 && ~/sh -c true",
    ),
    works("become another session's user through its host program", "$PROGRAMS/session-host try 54321"),
    fails(
        "become another session's user through the backend",
        "BRIDGE_SECRET=0123456789012345678901234567890123 BIND=127.0.0.1 PORT=0 RUN_DIR=$HOME/run SHELL_SANDBOX=user \
            SHELL_HOMES=$HOME/homes timeout -s KILL 20 $PROGRAMS/backend | grep listening",
    ),
    fails("mount a file system", "unshare -m mount -t tmpfs none /mnt"),
    works("change the root", "chroot / true"),
    works("make a device", "mknod ~/null c 1 3"),
    works("give a file away", "touch ~/given && chown 54321 ~/given"),
    works("raise its priority", "renice -n -5 -p $$"),
    works(
        "open a raw socket",
        "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
    ),
    works("signal process 1", "kill -0 1"),
    works("name the program of core dumps", "test -w /proc/sys/kernel/core_pattern"),
    fails("ask the kernel for all", "test -w /proc/sysrq-trigger"),
    works("read the system's passwords", "grep root /etc/shadow"),
    works("write to the system", "touch /etc/planted && rm /etc/planted"),
    fails("leave a job to cron", "echo '* * * * * true' | crontab -"),
    fails("leave a job to at", "echo true | at now"),
    works("list root's home", "ls /root"),
    // Limits. The session has 40 processes, 100 MiB of memory and files of 10 MiB.
    works(
        "start 100 processes",
        "python3 -c 'import os, signal, sys, time
pids = []
try:
    for n in range(100):
        pid = os.fork()
        if pid == 0: time.sleep(60); os._exit(0)
        pids.append(pid)
finally:
    for pid in pids: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)'",
    ),
    works(
        "start 100 threads",
        "python3 -c 'import threading
stop = threading.Event()
try:
    for n in range(100): threading.Thread(target=stop.wait, daemon=True).start()
finally: stop.set()'",
    ),
    works("take 300 MiB of memory", "python3 -c 'bytearray(300 << 20)'"),
    works("write a file of 20 MiB", "head -c 20971520 /dev/zero >~/large && rm ~/large"),
    works(
        "open 5000 files",
        "python3 -c 'import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, 6000))
files = [open(\"/dev/null\") for n in range(5000)]'",
    ),
    fails("raise the number of processes", "prlimit --pid $$ --nproc=100000"),
    works("raise the memory", "prlimit --pid $$ --data=unlimited"),
    works("dump core", "prlimit --pid $$ --core=1000000"),
    works(
        "make a message queue",
        "python3 -c 'import ctypes, os
libc = ctypes.CDLL(None); name = b\"/v\" + os.environ[\"V_ID\"].encode()
assert libc.mq_open(name, 0o102, 0o600, None) >= 0 and libc.mq_unlink(name) == 0'",
    ),
    fails("make a file for others", "touch ~/mine && find ~/mine -perm /077 | grep ."),
];
