"""Fan-out: one sender and 100 receivers; and 1,000 clients in rooms of 10.

The unit is one line delivered to one receiver; beside the small servers of ``chat_servers`` stands
the example Thundergram, which limits, times and checks what they do not.
"""

from benchmarks.harness import BUILD, Lab, Peer, run_json
from benchmarks.samples import Sample

EXAMPLE = Peer("pyloop example", "pyloop")
PEERS = (
    EXAMPLE,
    Peer("pyloop coroutine", "pyloop"),
    *[
        Peer(f"{library} {face}", library)
        for face in ("streams", "protocol")
        for library in ("pyloop", "uvloop", "rloop", "asyncio")
    ],
    Peer("textbook", "textbook"),
)
# Name of the bench -> rooms, members of each.
ROOMS = {"1 to 100": (1, 101), "1,000 in rooms of 10": (100, 10)}


def take(lab: Lab, peer: Peer, rooms: int, members: int) -> Sample:
    if peer is EXAMPLE:
        module = "pyloop.examples.thundergram"
        command = [lab.python(peer.library), "-P", "-m", module, "--port", "0"]
    else:
        command = lab.command(peer.library, "benchmarks.chat_servers", peer.name)
    with lab.server(command) as (pid, port):
        client: list[object] = [BUILD / "chat_client", "--port", port, "--pid", pid, "--poll"]
        client += ["--rooms", rooms, "--members", members, "--seconds", lab.options.seconds]
        answer = run_json([str(word) for word in client], lab.client_core)
    load = max(answer["server_delay"], answer["client_delay"])
    return Sample(answer["server_us"], load, answer)


def run(lab: Lab) -> None:
    for bench, (rooms, members) in ROOMS.items():

        def measure(peer: Peer, rooms: int = rooms, members: int = members) -> Sample:
            return take(lab, peer, rooms, members)

        lab.compare("chat", bench, "us", lab.available(PEERS), measure)
