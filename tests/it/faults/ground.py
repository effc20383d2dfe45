#!/usr/bin/env python3
"""The ground of a fault test: a network namespace for each name, small disks, and the network between the namespaces.

usage: ground.py SEED '{"names": {"g0": "10.77.0.2"}, "disks": {"/disks/g0": "64m"}}'   (as root)

Each namespace has one device, whose packets come here and are carried on: at once, or as a command says. Disks are mounted
in a mount namespace of this process's own. Everything ends with this process, which ends when its input does.

First says {"pid": ..., "namespaces": {"g0": file descriptor}}; then one line for each line that it reads, "ok" or an error:
  {"from": "g0", "to": "control", "drop": true}                  nothing arrives
  {"from": "g0", "to": "control", "delay": [0, 80], "twice": 10}  each packet on its own takes so many milliseconds, so that
                                                                later ones arrive earlier; so many percent arrive twice
  {"from": "g0", "to": "control"}                                as it was
  {"disk": "/disks/g0", "full": true}                          no byte more fits; false: as it was
"""
import ctypes, errno, fcntl, heapq, json, os, random, select, socket, struct, subprocess, sys, time

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
PACKETS_AT_ONCE = 64
libc = ctypes.CDLL(None, use_errno=True)


def unshare(what):
    if libc.unshare(what) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def namespace(address):
    """A network namespace with this address: what keeps it, and its device."""
    unshare(CLONE_NEWNET)
    kept = os.open("/proc/self/ns/net", os.O_RDONLY)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH14x", b"wire", IFF_TUN | IFF_NO_PI))
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{address}/16", "dev", "wire")
    run("ip", "link", "set", "wire", "up")
    return kept, device


class Disk:
    def __init__(self, path, size):
        self.path, self.size = path, size
        run("mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "faults", path)

    def full(self, is_full):
        for _ in range(100):
            status = os.statvfs(self.path)
            used = (status.f_blocks - status.f_bfree) * status.f_frsize
            size = str(max(used, status.f_frsize)) if is_full else self.size
            try:
                run("mount", "-o", f"remount,size={size}", self.path)
            except subprocess.CalledProcessError:
                continue  # more was written meanwhile
            if not is_full or os.statvfs(self.path).f_bfree == 0:
                return
        raise OSError(errno.EBUSY, "the disk does not stand still")


def main():
    chance, plan = random.Random(int(sys.argv[1])), json.loads(sys.argv[2])
    if not os.path.exists("/dev/net/tun"):
        os.makedirs("/dev/net", exist_ok=True)
        os.mknod("/dev/net/tun", 0o600 | 0o020000, os.makedev(10, 200))
    unshare(CLONE_NEWNS)
    run("mount", "--make-rprivate", "/")
    disks = {path: Disk(path, size) for path, size in plan["disks"].items()}
    kept, name_of, to = {}, {}, {}
    for name, address in plan["names"].items():
        kept[name], device = namespace(address)
        name_of[device] = name
        to[socket.inet_aton(address)] = (name, device)
    poller = select.epoll()
    for device in [0, *name_of]:
        poller.register(device, select.EPOLLIN)
    print(json.dumps({"pid": os.getpid(), "namespaces": kept}), flush=True)
    ways, waiting, number, read = {}, [], 0, b""

    def obey(command):
        if "disk" in command:
            disks[command["disk"]].full(command["full"])
        else:
            ways[(command.pop("from"), command.pop("to"))] = command

    def arrive(device, packet):
        try:
            os.write(device, packet)
        except OSError:
            pass  # a full queue loses packets, as networks do

    while True:
        until = max(0, waiting[0][0] - time.monotonic()) if waiting else -1
        for device, _ in poller.poll(until):
            if device == 0:
                part = os.read(0, 65536)
                if not part:
                    return
                *lines, read = (read + part).split(b"\n")
                for line in lines:
                    try:
                        obey(json.loads(line))
                        print("ok", flush=True)
                    except (OSError, KeyError, ValueError) as error:
                        print(repr(error), flush=True)
                continue
            for _ in range(PACKETS_AT_ONCE):
                try:
                    packet = os.read(device, 65536)
                except BlockingIOError:
                    break
                there = to.get(packet[16:20])
                if there is None or packet[0] >> 4 != 4:
                    continue
                way = ways.get((name_of[device], there[0]), {})
                if way.get("drop"):
                    continue
                for _ in range(2 if chance.randrange(100) < way.get("twice", 0) else 1):
                    if "delay" in way:
                        number += 1
                        due = time.monotonic() + chance.uniform(*way["delay"]) / 1000
                        heapq.heappush(waiting, (due, number, there[1], packet))
                    else:
                        arrive(there[1], packet)
        while waiting and waiting[0][0] <= time.monotonic():
            arrive(*heapq.heappop(waiting)[2:])


if __name__ == "__main__":
    main()
