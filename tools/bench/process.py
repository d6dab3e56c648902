"""Processes of the bench: started, bounded in time, and ended by their own id."""

import atexit
import json
import os
import select
import signal
import subprocess
import tempfile
import time

running = []


def end_all():
    for process in running[:]:
        end(process)


def end(process, sig=signal.SIGTERM, patience=5):
    if process in running:
        running.remove(process)
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def exit_on_signal(sig, _frame):
    raise SystemExit(128 + sig)


def guard():
    """Whatever ends this program, its children end with it."""
    atexit.register(end_all)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, exit_on_signal)


def start(command, core=None, **popen):
    cores = os.sched_getaffinity(0)

    def pin():
        if core is not None and core in cores and len(cores) > 1:
            os.sched_setaffinity(0, {core})

    process = subprocess.Popen(command, preexec_fn=pin, **popen)
    running.append(process)
    return process


class Failed(Exception):
    pass


def read_line(process, wanted, timeout):
    """The first line of a child's output that begins with `wanted`."""
    until = time.monotonic() + timeout
    line = b""
    fd = process.stdout.fileno()
    while time.monotonic() < until:
        if not select.select([fd], [], [], max(0, until - time.monotonic()))[0]:
            break
        byte = os.read(fd, 1)
        if byte == b"":
            break
        if byte != b"\n":
            line += byte
            continue
        if line.decode(errors="replace").startswith(wanted):
            return line.decode()
        line = b""
    raise Failed("no line '%s' from %s" % (wanted, os.path.basename(str(process.args[0]))))


class Running:
    """A server under way; `with Running(...) as server:` ends it."""

    def __init__(self, path, args, wrapper=(), core=0, patience=10):
        self.errors = tempfile.TemporaryFile("w+")  # two of one program may run at once
        command = list(wrapper) + [path] + list(args)
        self.process = start(command, core, stdout=subprocess.PIPE, stderr=self.errors)
        try:
            line = read_line(self.process, "listening on ", patience)
        except Failed as failure:
            end(self.process)
            self.errors.seek(0)
            why = [text for text in self.errors.read().splitlines() if text.strip()]
            raise Failed("%s: %s" % (failure, why[-1] if why else "it said nothing"))
        self.port = int(line.split()[2].rsplit(":", 1)[1])
        self.pid = self.child() if wrapper and "strace" in wrapper[0] else self.process.pid

    def child(self):
        pid = self.process.pid
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return int(f.read().split()[0])

    def ask(self, sig, wanted):
        os.kill(self.pid, sig)
        return read_line(self.process, wanted, 5)

    def stop(self, patience=10):
        """End it and return what it still said."""
        if self.process.poll() is not None:
            raise Failed("the server ended by itself, status %d" % self.process.returncode)
        os.kill(self.pid, signal.SIGTERM)
        try:
            rest = self.process.communicate(timeout=patience)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            end(self.process)
            raise Failed("the server did not end by SIGTERM")
        if self.process in running:
            running.remove(self.process)
        if self.process.returncode != 0:
            raise Failed("the server ended with status %d" % self.process.returncode)
        return rest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)
        self.errors.close()


def load_command(path, port, pid, args, core, life):
    command = [path, "--port", str(port), "--pid", str(pid), "--life", str(life)]
    if len(os.sched_getaffinity(0)) > 1:
        command += ["--core", str(core)]
    return command + [str(a) for a in args]


def load(path, port, pid, args, core=1, timeout=60):
    """Run the generator to its end; its report as a dictionary."""
    process = start(load_command(path, port, pid, args, core, timeout), stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=timeout + 5)
    except subprocess.TimeoutExpired:
        raise Failed("the generator did not end")
    finally:
        end(process)
    if process.returncode != 0:
        raise Failed(err.decode(errors="replace").strip() or
                     "generator status %d: %s" % (process.returncode, out.decode()[:200]))
    return json.loads(out)


class Sliced:
    """A generator that measures when it is told to, and is idle otherwise."""

    def __init__(self, path, port, pid, args, core=1, life=120):
        self.process = start(load_command(path, port, pid, args, core, life),
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def measure(self, patience=30):
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
            return json.loads(read_line(self.process, "{", patience))
        except (Failed, OSError) as failure:
            end(self.process)
            raise Failed(self.process.stderr.read().decode(errors="replace").strip() or
                         str(failure))

    def stop(self, patience=15):
        try:
            out, err = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            raise Failed("the generator did not end")
        finally:
            end(self.process)
        if self.process.returncode != 0:
            raise Failed(err.decode(errors="replace").strip() or
                         "generator status %d" % self.process.returncode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except OSError:  # what could not be written to one that has died
                pass
