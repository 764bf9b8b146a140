"""Two hosts made of network namespaces on this machine; the cable between them is pulled."""

import os
import pathlib
import shutil
import subprocess
import time
import unittest
import uuid

from faulty_run import FaultyRun
from lockstep_runner import environment, kill, processes_of

RESILIENT = pathlib.Path(__file__).parents[2] / "launch/resilient"
NETWORK = "10.77.19"


class Host:
    """A network and a host name of its own, as long as the process that holds them lives."""

    def __init__(self, name):
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", f"hostname {name} && ip link set lo up && echo && exec sleep 600"],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.made = self.holder.stdout.readline() == b"\n"
        self.enter = ["nsenter", f"--target={self.holder.pid}", "--net", "--uts"]

    def run(self, *words):
        return subprocess.run([*self.enter, *words], capture_output=True, text=True).returncode == 0

    def end(self):
        self.holder.kill()
        self.holder.communicate()


class TwoHostsTest(FaultyRun):
    def hosts(self):
        if any(shutil.which(program) is None for program in ("unshare", "nsenter", "ip")):
            self.skip("no unshare, nsenter or ip, with which hosts could be made")
        hosts = [Host(f"lockstep-{number}") for number in (1, 2)]
        for host in hosts:
            self.addCleanup(host.end)
        first, second = (str(host.holder.pid) for host in hosts)
        ok = all(host.made for host in hosts)
        ok = ok and hosts[0].run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second)
        for number, host in enumerate(hosts, 1):
            ok = ok and host.run("ip", "addr", "add", f"{NETWORK}.{number}/24", "dev", "cable") and host.run("ip", "link", "set", "cable", "up")
        if not ok:
            self.skip("no network namespaces can be made here (root has them, and few containers)")
        return hosts

    def test_resilient_goes_on_with_the_hosts_that_are_left_when_the_network_is_cut(self):  # ctest: waits
        hosts = self.hosts()
        cut = self.folder / "cut"
        way = self.folder / "way"  # to a host, as ssh is one
        way.write_text(f"""#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
host=$1; shift
case "$host" in
  {NETWORK}.1) pid={hosts[0].holder.pid} ;;
  *) pid={hosts[1].holder.pid}; [ ! -e '{cut}' ] || exit 255 ;;
esac
exec nsenter --target=$pid --net --uts sh -c "$*"
""")
        way.chmod(0o755)
        run = self.folder / "run"
        virtual = ["--set", "train.virtual_ranks=2", "--set", "watch.deadline_s=2"]
        flags = ["--backoff", "0", "--elastic", "1:2", "--hosts", f"{NETWORK}.1:1,{NETWORK}.2:1", "--binary", os.environ["LOCKSTEP"], "--"]
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        settings = {"oob_tcp_if_include": f"{NETWORK}.0/24", "btl_tcp_if_include": f"{NETWORK}.0/24", "btl": "tcp,self"}
        # The first start stands still for three seconds in step 6, in which the cable is pulled.
        env = environment(job, {"LOCKSTEP_SSH": str(way), "LOCKSTEP_FAULT": "slow=3@0:6", **{f"OMPI_MCA_{name}": value for name, value in settings.items()}})
        log = self.folder / "log"
        with log.open("wb") as file:
            words = [*hosts[0].enter, RESILIENT, *flags, *self.words(run, *virtual)]
            process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, start_new_session=True)
        self.wait_for(lambda: "step-0000004.safetensors" in self.checkpoints(run))
        cut.touch()
        self.assertTrue(hosts[1].run("ip", "link", "set", "cable", "down"))
        start = time.monotonic()
        code = process.wait(60)
        text = log.read_text()
        self.assertEqual(code, 0, text)
        self.assertLess(time.monotonic() - start, 50, text)
        self.assertEqual(text.count("lockstep: error: "), 1, text)
        self.assertIn("mpirun has not ended with the ranks of this host", text)
        self.assertNotIn("Segmentation fault", text)
        self.assertNotIn("Killed", text)
        self.assertIn(f"no answer from {NETWORK}.2", text)
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(*virtual, ranks=2))
        self.assertEqual([line["step"] for line in self.metrics(run, "train")], list(range(1, 21)))


if __name__ == "__main__":
    unittest.main()
